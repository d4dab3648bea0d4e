//! The answer to a request.

use std::time::Duration;

use crate::error::Error;
use crate::service::{ImageSpec, PulledImage};

/// The answer to one [`PullRequest`](crate::PullRequest).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PullResult {
    /// The request's id: the caller's own.
    pub id: u64,
    /// The image that was asked for.
    pub image: ImageSpec,
    /// The image that was pulled, or why it was not.
    pub outcome: Result<PulledImage, Error>,
    /// The image's size in bytes. Asked for after a pull that succeeded; `None` if the service could
    /// not tell.
    pub image_size: Option<u64>,
    /// How long the request waited for a token, or for the worker.
    pub wait_duration: Duration,
    /// How long it took from then on: credentials, pull and size. Zero if no pull was begun.
    pub pull_duration: Duration,
}
