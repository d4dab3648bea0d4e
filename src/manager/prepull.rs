//! Images to have before somebody asks.

use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;

use super::Throttle;
use super::core::Core;
use super::request::{EnsureRequest, EnsuredImage, ImageSource, PullPolicy};
use crate::context::PullContext;
use crate::error::Error;
use crate::service::{ImageSpec, PullSecret};

/// The priority of images that nobody waits for.
pub const PREPULL_PRIORITY: i8 = -100;

/// A list of images to have.
#[derive(Clone, Debug)]
pub struct PrepullRequest {
    /// Who asks. Not empty.
    pub owner: String,
    /// The images, as typed.
    pub images: Vec<ImageSpec>,
    /// Credentials, before all others.
    pub pull_secrets: Vec<PullSecret>,
    /// When to pull. Default: `IfNotPresent`.
    pub policy: PullPolicy,
    /// Default: [`PREPULL_PRIORITY`].
    pub priority: i8,
}

impl PrepullRequest {
    /// A request of `owner` for `images`: policy `IfNotPresent`, without secrets, at low priority.
    pub fn new<T: Into<ImageSpec>>(owner: impl Into<String>, images: impl IntoIterator<Item = T>) -> Self {
        PrepullRequest {
            owner: owner.into(),
            images: images.into_iter().map(Into::into).collect(),
            pull_secrets: Vec::new(),
            policy: PullPolicy::default(),
            priority: PREPULL_PRIORITY,
        }
    }
}

/// What became of the images of a [`PrepullRequest`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PrepullSummary {
    /// Images that were there, as typed.
    pub present: Vec<String>,
    /// Images that were pulled.
    pub pulled: Vec<String>,
    /// Images that could not be had, and why.
    pub failed: Vec<(String, Error)>,
    /// Bytes that came over the network.
    pub bytes_fetched: u64,
    /// How long it took.
    pub duration: Duration,
}

impl PrepullSummary {
    fn add(&mut self, image: String, outcome: Result<EnsuredImage, Error>) {
        match outcome {
            Ok(EnsuredImage { source: ImageSource::Pulled { image: pulled, .. }, .. }) => {
                self.bytes_fetched += pulled.bytes_fetched;
                self.pulled.push(image);
            }
            Ok(_) => self.present.push(image),
            Err(error) => self.failed.push((image, error)),
        }
    }
}

/// The throttle makes such pulls wait, however it treats others.
pub(super) fn prepull(core: &Core, cx: &PullContext, request: &PrepullRequest) -> PrepullSummary {
    let begun_at = Instant::now();
    let (sender, results) = unbounded();
    for (id, image) in request.images.iter().enumerate() {
        let one = EnsureRequest {
            id: id as u64,
            policy: request.policy,
            pull_secrets: request.pull_secrets.clone(),
            priority: request.priority,
            ..EnsureRequest::new(request.owner.clone(), image.clone())
        };
        core.submit(cx.clone(), one, Throttle::Wait, sender.clone());
    }
    drop(sender);
    let mut summary = PrepullSummary::default();
    for result in results {
        summary.add(result.image.image, result.outcome);
    }
    summary.duration = begun_at.elapsed();
    summary
}
