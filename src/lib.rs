//! Pulls container images without an async runtime.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod context;
mod durable;
mod error;
pub mod image;
mod progress;
mod service;
mod store;

pub use context::{CancelHook, CancelToken, PullContext};
pub use error::{Attempt, Error, ErrorKind, Phase};
pub use image::digest::{Algorithm, Digest};
pub use image::manifest::{Descriptor, Document, ImageConfig, Index, Manifest};
pub use image::platform::{Platform, Preference};
pub use image::reference::Reference;
pub use progress::{Progress, ProgressEvent};
pub use service::{
    CredentialFingerprint, ImageFsInfo, ImageInfo, ImageRef, ImageService, ImageSpec, PodSandboxConfig,
    PullRequest, PullSecret, PulledImage, Zeroed,
};
pub use store::{
    Blob, Durability, PrunePolicy, Removed, Store, StoreBuilder, StoreFsInfo, StoredImage, VerifyReport,
};
