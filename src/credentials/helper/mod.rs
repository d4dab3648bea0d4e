//! Programs that supply credentials: Docker's credential helpers, and kubelet's exec credential providers.
//!
//! A program is not trusted to end, to print little, or to exist.

mod docker;
mod plugin;
mod process;
mod runner;
mod shared;

pub(crate) use plugin::ProviderPlugins;
pub(crate) use runner::Helpers;

#[cfg(test)]
mod tests;
