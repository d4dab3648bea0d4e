//! The hosts that serve a registry, in the order to try: the mirrors of the builder, those of containerd's
//! [`hosts.toml`](https://github.com/containerd/containerd/blob/v2.1.0/docs/hosts.md), and the registry itself.

mod configured;
mod file;
mod host;
mod location;

pub(crate) use configured::Hosts;
#[cfg(fuzzing)]
pub(super) use file::fuzz as read_for_fuzzing;
pub(crate) use host::Host;

#[cfg(test)]
mod tests;
