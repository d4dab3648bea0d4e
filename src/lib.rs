//! Pulls container images without an async runtime.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod clock;
mod context;
mod credentials;
mod durable;
mod error;
pub mod image;
mod progress;
mod puller;
mod registry;
mod service;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod workers;

pub use clock::{Clock, SystemClock};
pub use context::{CancelHook, CancelToken, PullContext};
pub use credentials::{Credential, CredentialQuery, Keychain};
pub use error::{Attempt, Error, ErrorKind, Phase};
pub use image::digest::{Algorithm, Digest};
pub use image::manifest::{Descriptor, Document, ImageConfig, Index, Manifest};
pub use image::platform::{Platform, Preference};
pub use image::reference::Reference;
pub use progress::{Progress, ProgressEvent};
pub use puller::{
    ImagePuller, MAX_IMAGE_PULL_REQUESTS, ParallelImagePuller, ParallelImagePullerBuilder, PullResult,
    PullerStats, RejectReason, Rejected, SerialImagePuller, SerialImagePullerBuilder, until, until_by,
};
pub use registry::{
    Candidate, ImageVerifier, RegistryImageService, RegistryImageServiceBuilder, Resolver, SystemResolver,
};
pub use service::{
    CredentialFingerprint, ImageFsInfo, ImageInfo, ImageRef, ImageService, ImageSpec, PodSandboxConfig,
    PullRequest, PullSecret, PulledImage, Zeroed,
};
pub use store::{
    Blob, Durability, PrunePolicy, Removed, Store, StoreBuilder, StoreFsInfo, StoredImage, VerifyReport,
};

/// Doors for the targets in `tests/fuzz`.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::credentials::docker_config;
    pub use crate::registry::fuzzing::{challenge, headers, hosts_toml};
}
