//! Values: references, digests, platforms, manifests and configs. No I/O, no threads.

pub mod config;
pub mod digest;
mod json;
pub mod manifest;
pub mod platform;
mod quoted;
pub mod reference;
mod select;

pub(crate) use quoted::quoted;
