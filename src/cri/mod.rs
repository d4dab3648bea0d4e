//! The image service of a CRI runtime: containerd, CRI-O or cri-dockerd over its unix socket, behind
//! [`ImageService`](crate::ImageService).
//!
//! Each call has a connection of its own and runs on the caller's thread; the room starts no thread. From top
//! to bottom: `service` (which call, which credentials) over `endpoint` (which socket), `grpc` (message and
//! status), `socket` (time and cancellation) and `http2` (frames, without I/O).

mod api;
mod builder;
mod endpoint;
#[cfg(fuzzing)]
pub mod fuzzing;
mod grpc;
mod http2;
mod service;
mod socket;
mod status;

pub use builder::CriImageServiceBuilder;
pub use service::{CriImageService, CriVersion};
