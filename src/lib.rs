//! Pulls container images without an async runtime.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod context;
#[expect(dead_code, reason = "used by the registry")]
mod credentials;
mod error;
pub mod image;
mod progress;
mod registry;
mod service;

pub use context::{CancelHook, CancelToken, PullContext};
pub use credentials::{Credential, CredentialQuery, Keychain};
pub use error::{Attempt, Error, ErrorKind, Phase};
pub use image::digest::{Algorithm, Digest};
pub use image::manifest::Descriptor;
pub use image::platform::Platform;
pub use progress::{Progress, ProgressEvent};
pub use service::{
    CredentialFingerprint, ImageFsInfo, ImageInfo, ImageRef, ImageService, ImageSpec, PodSandboxConfig,
    PullRequest, PullSecret, PulledImage, Zeroed,
};
