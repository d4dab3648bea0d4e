//! The image manager's handle.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};

use super::backoff::BackOffKey;
use super::inner::ManagerInner;
use super::metrics::ManagerMetrics;
use super::request::{
    EnsureRequest, EnsureResult, EnsuredImage, PrepullRequest, PrepullSummary, parse_reference,
};
use super::throttle::ThrottleMode;
use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::service::ImageService;

/// Ensures that images are there: decides whether to pull, pulls once for all requests that need the image,
/// and knows when not to try.
///
/// It is [kubelet's `EnsureImageExists`](https://github.com/kubernetes/kubernetes/blob/master/pkg/kubelet/images/image_manager.go)
/// and more. A request goes this way:
///
/// 1. **Policy.** The image that is there may be enough ([`PullPolicy`](crate::PullPolicy),
///    [`VerificationPolicy`](super::VerificationPolicy)). A service that does not support
///    [`image_ref`](ImageService::image_ref) is taken to have no image.
/// 2. **Back-off.** An image that failed for this owner is not tried again for a while. Failures that only a
///    change can mend (`InvalidReference`, `NoMatchingPlatform`, `InvalidManifest`, `Unsupported`, `Denied`,
///    `Unauthorized`) back off for the longest time at once. A registry's `Retry-After` is respected, up to a
///    day. Success, other credentials, and [`reset`](Self::reset) end the back-off.
/// 3. **One pull for many.** Requests for the same image with the same credentials share a pull that waits or
///    runs, and its failure. It is cancelled when the last of them has left.
/// 4. **Turn.** Pulls start by priority and age, within the limits and the throttle. The age is that of the
///    request: a submitted request keeps its place while the manager looks for the image, for up to 3 s. When
///    its turn comes, a pull that had to wait is dropped if the image has come meanwhile.
///
/// Threads: one at rest. The first four [submitted](Self::submit) requests start a thread each, which stays.
/// Each pull that runs has one, of the manager's or of the caller's puller. All end with the manager. Dropping
/// it is a [`shutdown`](Self::shutdown) without grace.
///
/// ```no_run
/// use oci_puller::{EnsureRequest, ImageManager, PullContext, PullPolicy, RegistryImageService};
///
/// # fn main() -> Result<(), oci_puller::Error> {
/// let service = RegistryImageService::builder("/var/lib/images").build()?;
/// let manager = ImageManager::builder(service).max_parallel(4).build()?;
///
/// let request = EnsureRequest::new("pod-1", "alpine:3").with_policy(PullPolicy::IfNotPresent);
/// let image = manager.ensure_image_exists(&PullContext::new(), &request)?;
/// println!("{}: {}", image.image_ref, image.message);
/// # Ok(())
/// # }
/// ```
pub struct ImageManager(pub(super) Arc<ManagerInner>);

impl ImageManager {
    /// Ensures that the image is there, and waits for it. May be called from any number of threads; not from
    /// an event sink or a progress, which would wait for themselves.
    ///
    /// # Errors
    /// [`InvalidReference`](ErrorKind::InvalidReference) if the image is not a valid name;
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) if the owner is empty; [`NeverPull`](ErrorKind::NeverPull), or
    /// [`Denied`](ErrorKind::Denied) if the image is there and the service refuses it;
    /// [`BackOff`](ErrorKind::BackOff), and [`RateLimited`](ErrorKind::RateLimited) from the throttle;
    /// [`Cancelled`](ErrorKind::Cancelled) and [`Timeout`](ErrorKind::Timeout) as soon as the context ends;
    /// [`ShutDown`](ErrorKind::ShutDown); [`Panicked`](ErrorKind::Panicked);
    /// [`ResourceExhausted`](ErrorKind::ResourceExhausted) if no thread could be started; every error of the image
    /// service.
    pub fn ensure_image_exists(
        &self,
        cx: &PullContext,
        request: &EnsureRequest,
    ) -> Result<EnsuredImage, Error> {
        self.0.ensure(cx, request)
    }

    /// Does the same without waiting: exactly one [`EnsureResult`] is sent to `results`. Never blocks.
    ///
    /// While the channel is full, the result waits for room, and holds up nothing else. A result is dropped
    /// only if its receiver is gone, or the shutdown has begun and the channel is full.
    pub fn submit(&self, cx: PullContext, request: EnsureRequest, results: Sender<EnsureResult>) {
        self.0.submit(cx, request, self.0.throttle, results);
    }

    /// Ensures that all these images are there, at low priority, and waits for them. The throttle makes their
    /// pulls wait and refuses none. When the context ends, so does the wait.
    pub fn prepull(&self, cx: &PullContext, request: &PrepullRequest) -> PrepullSummary {
        let begun_at = Instant::now();
        let (sender, results) = unbounded();
        for request in request.requests() {
            self.0.submit(cx.clone(), request, ThrottleMode::Wait, sender.clone());
        }
        drop(sender);
        let mut summary = PrepullSummary::default();
        for result in results {
            summary.add(result.image.image, result.outcome);
        }
        summary.duration = begun_at.elapsed();
        summary
    }

    /// Ends the back-off of the image, as typed, for the owner. Returns whether there was one.
    ///
    /// # Errors
    /// [`InvalidReference`](ErrorKind::InvalidReference); [`InvalidConfig`](ErrorKind::InvalidConfig) if the owner is
    /// empty.
    pub fn reset(&self, owner: &str, image: &str) -> Result<bool, Error> {
        if owner.is_empty() {
            return Err(Error::new(ErrorKind::InvalidConfig, "owner is empty"));
        }
        let tag = if parse_reference(image)?.is_tagged_by_default() { ":latest" } else { "" };
        let key = BackOffKey { owner: owner.to_owned(), image: format!("{image}{tag}") };
        Ok(self.0.in_flight.lock().back_off.forget(&key))
    }

    /// Removes the records of images that the service no longer has. Returns how many records that were.
    ///
    /// # Errors
    /// Those of [`ImageService::list_images`].
    pub fn prune_records(&self, cx: &PullContext) -> Result<usize, Error> {
        let Some(records) = &self.0.records else { return Ok(0) };
        let mark = records.mark();
        let present: HashSet<_> =
            self.0.service.list_images(cx)?.into_iter().map(|image| image.image_ref).collect();
        Ok(records.prune(&present, mark))
    }

    /// Returns the manager's counters and gauges.
    pub fn metrics(&self) -> ManagerMetrics {
        let now = self.0.now();
        self.0.in_flight.lock().snapshot(now)
    }

    /// Ends the manager: it takes nothing new, answers pulls that wait for their turn with `ShutDown`, gives
    /// those that run `grace` to finish, and cancels them then. Returns when its threads were joined, at the
    /// latest two seconds after the grace. A thread that is held up by a call which does not listen to its
    /// context is left behind and named in the log. May be called again, from anywhere.
    pub fn shutdown(&self, grace: Duration) {
        self.0.end(grace);
    }
}

impl Drop for ImageManager {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
    }
}

impl fmt::Debug for ImageManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageManager").field("metrics", &self.metrics()).finish_non_exhaustive()
    }
}
