//! Takes pull requests, bounds them, and answers each on a channel that the caller supplied: the builders and
//! statistics of [`ParallelImagePuller`](crate::ParallelImagePuller) and
//! [`SerialImagePuller`](crate::SerialImagePuller), and [`until`] to restart work that panics.

// `parallel` and `serial` are the two pullers of Kubernetes' `puller.go`. Each shows its own mechanism. Both
// share `queued`, a request that exactly one thread answers, and `pulls`, one pull from its claim to its result.
// The types of the paved path stand at the root of the crate.

mod forward;
pub(crate) mod image_puller;
pub(crate) mod parallel;
mod pulls;
mod queued;
mod rejected;
pub(crate) mod result;
pub(crate) mod serial;

pub use crate::sync::{until, until_by};
pub use image_puller::PullerStats;
pub use parallel::ParallelImagePullerBuilder;
pub use rejected::{RejectReason, Rejected};
pub use serial::{MAX_IMAGE_PULL_REQUESTS, SerialImagePullerBuilder};

pub(crate) use image_puller::ImagePuller;
pub(crate) use result::PullResult;
