//! Pulls container images into an OCI image layout on disk, without an async runtime.
//!
//! - [`ParallelImagePuller`] and [`SerialImagePuller`] take pull requests, bound them, and answer each on
//!   a channel that the caller supplied.
//! - [`RegistryImageService`] stands behind them by default: it pulls from any OCI or Docker registry over
//!   blocking HTTP into a [`Store`]. Any other implementation of [`ImageService`] can take its place.
//! - [`ImageManager`] decides whether to pull: policy, back-off, and one pull for many requests.
//! - [`PullContext`] accompanies each request: a [`CancelToken`], a deadline, and a receiver of progress.
//!
//! ```no_run
//! use oci_puller::{ImagePuller, ParallelImagePuller, PullContext, PullRequest, RegistryImageService};
//!
//! let service = RegistryImageService::builder("/var/lib/images").build()?;
//! let puller = ParallelImagePuller::new(service, Some(4))?;
//!
//! let (results, answers) = oci_puller::unbounded();
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
//! The root holds what most programs use. Settings and details stand in modules: [`puller`], [`manager`],
//! [`registry`], [`store`], [`image`], [`credentials`], [`progress`], [`clock`].
//!
//! # Features
//!
//! No feature is on by default. Counts are crates beyond the 60 of the default build, on Linux.
//!
//! | feature | adds | crates |
//! |---|---|--:|
//! | `unpack` | an image becomes a root file system: one folder, overlay layers or a tar; Linux only | 2 |
//! | `signatures` | policies about the signatures of cosign | 0 |
//! | `cri` | the image service of containerd, CRI-O or cri-dockerd | 5 |
//! | `ecdsa` | TLS certificates that *ring* cannot verify: P-521, and SHA-512 with P-256 or P-384 | 22 |
//! | `platform-verifier` | TLS trust from the operating system instead of the bundled roots | 3 |
//! | `testing` | a registry in the process that can misbehave, and image builders | 0 |
//! | `cli` | the command `oci-puller`; includes `cri`, `ecdsa`, `signatures` and `testing` | 54 |
//!
//! # Threads
//!
//! Each thread has a name, a bound and an owner that joins it. A request that waits has no thread. The threads of
//! a puller, a manager or a pull end with it. Name look-ups, credential helpers and flushes cannot be
//! interrupted; they run in pools of 2 to 4 threads for the process, which end after 10 s without work or
//! with the last service or store. The crate installs no signal handler, and changes neither environment nor umask. The [architecture page]
//! lists all threads.
//!
//! # Panics
//!
//! A panic in an image service, a hook or another piece of the caller's code is caught and becomes an
//! error of kind [`Panicked`](ErrorKind::Panicked), or a line in the log. With `panic = "abort"` it ends the process, and
//! the requests get no result.
//!
//! # Platforms
//!
//! Unix. Linux is the platform that is tested; `unpack` needs it. macOS and FreeBSD are meant to compile, and are
//! not tested. *ring* compiles C and assembly: a cross build needs a C compiler for the target (`CC_<target>`). The
//! minimum supported Rust version is 1.89.
//!
//! # Logging
//!
//! The crate logs with [`log`], and no secret at any level. **At level trace, the HTTP library ureq logs requests
//! with their `Authorization` headers, and at level debug whole URLs, which may be signed**: a logger that is
//! enabled for all crates uses [`log_filter`].
//!
//! | level | records |
//! |---|---|
//! | error | a panic that was caught: in the image service, in a hook, in work that is run again |
//! | warn | a thread that ignores its context, a result that found no room, a damaged blob, a file that is not used |
//! | info | none |
//! | debug | each host that failed and is tried again, results without a receiver, partial downloads that were removed |
//! | trace | none |
//!
//! # Further pages
//!
//! By task: [five images with a deadline], [an agent that pulls before images are needed], [offline], [slow links],
//! [a service of your own]. The [limits and their defaults], the [benchmarks], and the [architecture page].
//!
//! [architecture page]: https://docs.rs/oci-puller/latest/oci_puller/docs/architecture/index.html
//! [limits and their defaults]: https://docs.rs/oci-puller/latest/oci_puller/docs/limits/index.html
//! [five images with a deadline]: https://docs.rs/oci-puller/latest/oci_puller/docs/five_images/index.html
//! [an agent that pulls before images are needed]: https://docs.rs/oci-puller/latest/oci_puller/docs/prepulling_agent/index.html
//! [offline]: https://docs.rs/oci-puller/latest/oci_puller/docs/offline/index.html
//! [slow links]: https://docs.rs/oci-puller/latest/oci_puller/docs/slow_links/index.html
//! [a service of your own]: https://docs.rs/oci-puller/latest/oci_puller/docs/own_service/index.html
//! [benchmarks]: https://docs.rs/oci-puller/latest/oci_puller/docs/benchmarks/index.html
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(unix))]
compile_error!("oci-puller runs on Unix only: its store needs flock, fsync of folders and Unix file modes");

pub mod clock;
mod context;
pub mod credentials;
#[cfg(feature = "cri")]
pub mod cri;
#[cfg(feature = "unpack")]
mod decoders;
mod durable;
mod error;
pub mod image;
mod log_filter;
pub mod manager;
pub mod progress;
mod prometheus;
pub mod puller;
pub mod registry;
mod service;
#[cfg(feature = "signatures")]
pub mod signatures;
pub mod store;
mod sync;
mod tar;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "unpack")]
pub mod unpack;

/// Pages about the crate as a whole.
#[cfg(doc)]
pub mod docs {
    #[doc = include_str!("ARCHITECTURE.md")]
    pub mod architecture {}
    #[doc = include_str!("LIMITS.md")]
    pub mod limits {}
    #[doc = include_str!("BENCHMARKS.md")]
    pub mod benchmarks {}
    #[doc = include_str!("docs/five_images.md")]
    pub mod five_images {}
    #[doc = include_str!("docs/prepulling_agent.md")]
    pub mod prepulling_agent {}
    #[doc = include_str!("docs/offline.md")]
    pub mod offline {}
    #[doc = include_str!("docs/slow_links.md")]
    pub mod slow_links {}
    #[doc = include_str!("docs/own_service.md")]
    pub mod own_service {}
}

/// The README's examples are compiled and run.
#[cfg(all(doctest, feature = "testing"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// The channels of results, from crossbeam-channel.
#[doc(no_inline)]
pub use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

pub use context::{CancelHook, CancelToken, PullContext};
pub use error::{Attempt, Error, ErrorKind, Phase};
pub use log_filter::log_filter;
pub use manager::image_manager::ImageManager;
pub use manager::request::{
    EnsureRequest, EnsureResult, EnsuredImage, PrepullRequest, PrepullSummary, PullPolicy,
};
pub use puller::image_puller::ImagePuller;
pub use puller::parallel::ParallelImagePuller;
pub use puller::result::PullResult;
pub use puller::serial::SerialImagePuller;
pub use registry::image_service::RegistryImageService;
pub use service::{
    CredentialFingerprint, ImageFsInfo, ImageInfo, ImageRef, ImageService, ImageSpec, PodSandboxConfig,
    PullRequest, PullSecret, PulledImage, Zeroed,
};
pub use store::handle::Store;

/// Doors for the targets in `tests/fuzz`.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::credentials::docker_config;
    #[cfg(feature = "cri")]
    pub use crate::cri::fuzzing::{
        exchange as cri_exchange, header_blocks as cri_header_blocks, messages as cri_messages,
    };
    pub use crate::registry::fuzzing::{challenge, error_body, headers, hosts_toml, location, no_proxy};
    #[cfg(feature = "signatures")]
    pub use crate::signatures::fuzzing::{bundle, policy_json, simple_signing, spki};
}
