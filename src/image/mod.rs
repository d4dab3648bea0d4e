//! Values of the image world; no I/O, no threads.

pub mod digest;
pub mod manifest;
pub mod platform;
pub mod reference;
