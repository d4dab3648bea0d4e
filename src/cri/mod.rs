//! The image service of a CRI runtime: containerd, CRI-O or cri-dockerd over its unix socket, behind
//! [`ImageService`](crate::ImageService).
//!
//! Each call has a connection of its own and runs on the caller's thread; this module starts no thread. From top to
//! bottom: `service` (methods and credentials), `endpoint` (the socket's path), `grpc` (messages and statuses),
//! `socket` (I/O, deadlines, cancellation) and `http2` (frames and header blocks, without I/O).

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
