//! Whether to pull, when to try again, and one pull for many askers: what kubelet's image manager does,
//! and what its users ask of it.

mod backoff;
mod builder;
mod core;
mod crew;
mod ensure;
mod events;
mod flight;
mod flights;
mod metrics;
mod prepull;
mod records;
mod reply;
mod request;
mod schedule;
mod secrets;
mod throttle;
mod verification;
mod work;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

pub use builder::ImageManagerBuilder;
pub use events::{Event, EventReason, EventSink};
pub use metrics::{Histogram, ManagerMetrics, RequestLabels};
pub use prepull::{PREPULL_PRIORITY, PrepullRequest, PrepullSummary};
pub use request::{EnsureRequest, EnsureResult, EnsuredImage, ImageSource, PullPolicy};
pub use verification::VerificationPolicy;

use self::backoff::Key;
use self::core::Core;
use self::crew::Crew;
use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::service::ImageService;

/// What becomes of a request when too many pulls have begun.
///
/// Neither is a failure of the image: there is no back-off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Throttle {
    /// It is refused with `RateLimited`, whatever its policy: kubelet's way, and the default. To share a
    /// pull that waits or runs needs no token.
    #[default]
    Refuse,
    /// It waits for its turn, and can be cancelled meanwhile.
    Wait,
}

/// Sees to it that images are there: decides whether to pull, pulls once for all who ask, and knows when
/// not to try.
///
/// It is [kubelet's `EnsureImageExists`](https://github.com/kubernetes/kubernetes/blob/master/pkg/kubelet/images/image_manager.go)
/// and more. A request goes this way:
///
/// 1. **Policy.** What is there may do ([`PullPolicy`], [`VerificationPolicy`]).
/// 2. **Back-off.** An image that failed for this owner is not tried again for a while. What will not
///    mend itself (`InvalidReference`, `NoMatchingPlatform`, `InvalidManifest`, `Unsupported`, `Denied`,
///    `Unauthorized`) waits for the longest time at once. A registry's `Retry-After` is respected, up to a
///    day. Success, other credentials, and [`reset`](Self::reset) set the image free.
/// 3. **One pull for many.** Who asks for the same image with the same credentials as a pull that waits
///    or runs shares it, and its failure. It is cancelled when the last of them has gone.
/// 4. **Turn.** Pulls go by priority and age, within the limits and the throttle. When its turn comes, a
///    pull that had to wait is dropped if the image has come meanwhile.
///
/// It has five threads of its own, however many ask. Dropping it is a [`shutdown`](Self::shutdown)
/// without grace.
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
pub struct ImageManager {
    core: Arc<Core>,
    crew: Crew,
    owns_puller: bool,
}

impl ImageManager {
    /// A manager over `service`, with other settings than the defaults, or with them.
    pub fn builder(service: impl ImageService + 'static) -> ImageManagerBuilder {
        ImageManagerBuilder::new(Arc::new(service))
    }

    /// Has the image, and waits for it. May be called from any number of threads; not from an event sink
    /// or a progress, which would wait for themselves.
    ///
    /// # Errors
    /// `InvalidReference` if the image is no name; `InvalidConfig` if the owner is empty; `NeverPull`,
    /// `BackOff`, and `RateLimited` from the throttle; `Cancelled` and `Timeout` as soon as the context
    /// ends; `ShutDown`; `Panicked`; and whatever the image service fails with.
    pub fn ensure_image_exists(
        &self,
        cx: &PullContext,
        request: &EnsureRequest,
    ) -> Result<EnsuredImage, Error> {
        self.core.ensure(cx, request)
    }

    /// The same without waiting: exactly one [`EnsureResult`] is sent to `results`.
    ///
    /// No thread waits for it; but one of the manager's few waits while the channel is full. A receiver
    /// that is gone harms nobody. Once the shutdown has begun, an answer that finds no room is dropped.
    pub fn submit(&self, cx: PullContext, request: EnsureRequest, results: Sender<EnsureResult>) {
        self.core.submit(cx, request, self.core.throttle, results);
    }

    /// Has all these images, at low priority, and waits for them; the throttle makes their pulls wait and
    /// refuses none. When the context ends, so does the wait for those that are not there yet.
    pub fn prepull(&self, cx: &PullContext, request: &PrepullRequest) -> PrepullSummary {
        prepull::prepull(&self.core, cx, request)
    }

    /// Forgets that the image, as typed, failed for the owner: it may be tried again at once. Whether
    /// there was something to forget.
    ///
    /// # Errors
    /// `InvalidReference`; `InvalidConfig` if the owner is empty.
    pub fn reset(&self, owner: &str, image: &str) -> Result<bool, Error> {
        if owner.is_empty() {
            return Err(Error::new(ErrorKind::InvalidConfig, "owner is empty"));
        }
        let tag = if ensure::parse(image)?.is_tagged_by_default() { ":latest" } else { "" };
        let key = Key { owner: owner.to_owned(), image: format!("{image}{tag}") };
        Ok(self.core.flights.lock().back_off.forget(&key))
    }

    /// Forgets who pulled images that the service does not have any more; how many records that were.
    ///
    /// # Errors
    /// Those of [`ImageService::list_images`].
    pub fn prune_records(&self, cx: &PullContext) -> Result<usize, Error> {
        let Some(records) = &self.core.records else { return Ok(0) };
        let mark = records.mark();
        let there: HashSet<_> =
            self.core.service.list_images(cx)?.into_iter().map(|image| image.image_ref).collect();
        Ok(records.prune(&there, mark))
    }

    /// What it has done so far, and what it is doing.
    pub fn metrics(&self) -> ManagerMetrics {
        let now = self.core.now();
        self.core.flights.lock().snapshot(now)
    }

    /// Ends the manager: nothing new is taken, pulls that wait for their turn are answered `ShutDown`,
    /// those that run may finish within `grace` and are cancelled then. Returns when its threads were
    /// joined, at the latest three seconds after the grace; a thread that something holds up which does
    /// not listen is left behind and named in the log. May be called again, from anywhere.
    pub fn shutdown(&self, grace: Duration) {
        self.core.end(grace, self.owns_puller);
        self.crew.join();
        // What the threads could not come to, if they were left behind.
        self.core.drain();
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
