//! Values: references, digests, platforms, manifests and configs. No I/O, no threads.

pub mod digest;
pub mod manifest;
pub mod platform;
mod quoted;
pub mod reference;
mod select;
