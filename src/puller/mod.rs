//! Takes pull requests, bounds them, and answers each on a channel that the caller supplied.
//!
//! [`parallel`] and [`serial`] are the two pullers of Kubernetes' `puller.go`. Each shows its own mechanism.
//! Both share [`queued`], a request that exactly one thread answers, and [`pulls`], one pull from its claim
//! to its result.

mod forward;
mod image_puller;
mod parallel;
mod pulls;
mod queued;
mod rejected;
mod result;
mod serial;
mod until;

pub use image_puller::{ImagePuller, PullerStats};
pub use parallel::{ParallelImagePuller, ParallelImagePullerBuilder};
pub use rejected::{RejectReason, Rejected};
pub use result::PullResult;
pub use serial::{MAX_IMAGE_PULL_REQUESTS, SerialImagePuller, SerialImagePullerBuilder};
pub use until::{until, until_by};
