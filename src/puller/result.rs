//! The result of a request.

use std::time::Duration;

use crate::error::Error;
use crate::service::{ImageSpec, PullRequest, PulledImage};

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
    /// The request without its image.
    rest: PullRequest,
}

impl PullResult {
    pub(super) fn new(
        mut request: PullRequest,
        outcome: Result<PulledImage, Error>,
        image_size: Option<u64>,
        (wait_duration, pull_duration): (Duration, Duration),
    ) -> Self {
        let image = std::mem::take(&mut request.image);
        PullResult { id: request.id, image, outcome, image_size, wait_duration, pull_duration, rest: request }
    }

    /// Returns the request with all its fields, to pull it again.
    ///
    /// ```
    /// # use oci_puller::{ImagePuller, PullContext, PullResult, Sender};
    /// fn again(puller: &dyn ImagePuller, result: PullResult, results: Sender<PullResult>) {
    ///     if result.outcome.as_ref().is_err_and(|error| error.is_retryable()) {
    ///         puller.pull_image(PullContext::new(), result.into_request(), results);
    ///     }
    /// }
    /// ```
    pub fn into_request(self) -> PullRequest {
        PullRequest { id: self.id, image: self.image, ..self.rest }
    }
}
