//! Pulls container images into an OCI image layout on disk, without an async runtime.
//!
//! - [`ParallelImagePuller`] and [`SerialImagePuller`] take pull requests, bound them, and answer each on
//!   a channel that the caller supplied.
//! - [`RegistryImageService`] stands behind them by default: it pulls from any OCI or Docker registry over
//!   blocking HTTP into a [`Store`]. Anything else that implements [`ImageService`] may stand there, too.
//! - [`PullContext`] goes with each request: a [`CancelToken`], a deadline, and who is told of progress.
//!
//! ```no_run
//! use oci_puller::{ImagePuller, ParallelImagePuller, PullContext, PullRequest, RegistryImageService};
//!
//! let service = RegistryImageService::builder("/var/lib/images").build()?;
//! let puller = ParallelImagePuller::new(service, Some(4))?;
//!
//! let (results, answers) = crossbeam_channel::unbounded();
//! for (id, image) in ["alpine:3.22", "registry.k8s.io/pause:3.10"].into_iter().enumerate() {
//!     puller.pull_image(PullContext::new(), PullRequest::new(id as u64, image), results.clone());
//! }
//! drop(results);
//! for result in answers {
//!     match result.outcome {
//!         Ok(pulled) => println!("{}: {}", result.image.image, pulled.image_ref),
//!         Err(error) => eprintln!("{error}"),
//!     }
//! }
//! # Ok::<(), oci_puller::Error>(())
//! ```
//!
//! # Logging
//!
//! The crate logs by [`log`], and no secret at any level. **At level trace, the HTTP library ureq logs requests
//! with their `Authorization` headers**: a logger that is enabled for all crates uses [`log_filter`].
#![cfg_attr(docsrs, feature(doc_cfg))]

mod clock;
mod context;
mod credentials;
#[cfg(feature = "cri")]
pub mod cri;
#[cfg(feature = "unpack")]
mod decoders;
mod durable;
mod error;
pub mod image;
mod log_filter;
mod manager;
mod progress;
mod puller;
mod registry;
mod service;
#[cfg(feature = "signatures")]
pub mod signatures;
mod store;
mod sync;
mod tar;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "unpack")]
mod unpack;

/// The README's quick start is compiled and run.
#[cfg(all(doctest, feature = "testing"))]
#[doc = include_str!("../README.md")]
struct Readme;

pub use clock::{Clock, SystemClock};
pub use context::{CancelHook, CancelToken, PullContext};
pub use credentials::{Credential, CredentialQuery, Keychain};
pub use error::{Attempt, Error, ErrorKind, Phase};
pub use image::config::{HistoryEntry, ImageConfig};
pub use image::digest::{Algorithm, Digest};
pub use image::manifest::{Descriptor, Document, Index, Manifest};
pub use image::platform::{Platform, Preference};
pub use image::reference::Reference;
pub use log_filter::log_filter;
pub use manager::{
    EnsureRequest, EnsureResult, EnsuredImage, Event, EventReason, EventSink, Histogram, ImageManager,
    ImageManagerBuilder, ImageSource, ManagerMetrics, PREPULL_PRIORITY, PrepullRequest, PrepullSummary,
    PullPolicy, RequestLabels, ThrottleMode, VerificationPolicy,
};
pub use progress::{Progress, ProgressEvent};
pub use puller::{
    ImagePuller, MAX_IMAGE_PULL_REQUESTS, ParallelImagePuller, ParallelImagePullerBuilder, PullResult,
    PullerStats, RejectReason, Rejected, SerialImagePuller, SerialImagePullerBuilder, until, until_by,
};
pub use registry::{
    Candidate, FetchedManifest, ImageVerifier, Referrers, RegistryImageService, RegistryImageServiceBuilder,
    Resolver, SystemResolver, VerifyError,
};
pub use service::{
    CredentialFingerprint, ImageFsInfo, ImageInfo, ImageRef, ImageService, ImageSpec, PodSandboxConfig,
    PullRequest, PullSecret, PulledImage, Zeroed,
};
pub use store::{
    Blob, Cancellable, Durability, ImportOptions, Imported, PrunePolicy, Removed, SkippedImage, Store,
    StoreBuilder, StoreFsInfo, StoredImage, VerifyReport,
};

#[cfg(feature = "unpack")]
pub use unpack::{
    DamagedLayer, Devices, IdRange, LayerStack, LayerStore, LayerStoreBuilder, LeftOut, Owners, Unpack,
    Unpacked, User, Xattrs,
};

/// Doors for the targets in `tests/fuzz`.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::credentials::docker_config;
    #[cfg(feature = "cri")]
    pub use crate::cri::fuzzing::exchange as cri_exchange;
    pub use crate::registry::fuzzing::{challenge, error_body, headers, hosts_toml, location, no_proxy};
    #[cfg(feature = "signatures")]
    pub use crate::signatures::fuzzing::{bundle, policy_json, simple_signing, spki};
}
