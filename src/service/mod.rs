//! The interface between pullers and image services: the trait, its requests and its results.

mod image_service;
mod request;
mod result;

pub use image_service::ImageService;
pub use request::{ImageSpec, PodSandboxConfig, PullRequest, PullSecret, Zeroed};
pub use result::{CredentialFingerprint, ImageFsInfo, ImageInfo, ImageRef, PulledImage};
