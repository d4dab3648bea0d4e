//! Takes pull requests, bounds them, and answers each on a channel that the caller supplied.

mod desk;
mod parallel;
mod queue;
mod serial;
mod until;

use std::fmt;
use std::time::Duration;

use crossbeam_channel::Sender;

pub use parallel::{ParallelImagePuller, ParallelImagePullerBuilder};
pub use serial::{MAX_IMAGE_PULL_REQUESTS, SerialImagePuller, SerialImagePullerBuilder};
pub use until::{until, until_by};

use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::service::{ImageSpec, PullRequest, PulledImage};

/// The stack of each thread of a puller, bytes.
const DEFAULT_STACK_SIZE: usize = 256 * 1024;

/// Pulls images, and answers on channels.
///
/// For n requests into channels with room there are n results: on success and error, a panic of the
/// image service, a cancel, a deadline, a shutdown, or a thread that could not be started.
pub trait ImagePuller: Send + Sync {
    /// Asks for a pull; exactly one [`PullResult`] is sent to `results`.
    ///
    /// A receiver that is gone harms nobody. While a channel is full, the pull that has a result for
    /// it keeps its token, or the worker; a result that is sent from the caller's own thread (a
    /// request that is refused), from one that cancels, or after the shutdown began is dropped, and
    /// logged, when the channel has no room.
    fn pull_image(&self, cx: PullContext, request: PullRequest, results: Sender<PullResult>);

    /// Asks for a pull if that is possible without waiting.
    ///
    /// # Errors
    /// Gives everything back when the queue is full or the puller was shut down.
    fn try_pull_image(
        &self,
        cx: PullContext,
        request: PullRequest,
        results: Sender<PullResult>,
    ) -> Result<(), Rejected>;

    /// How many pulls it runs side by side; `None` is no limit, and what is said of a puller that does
    /// not tell.
    fn capacity(&self) -> Option<usize> {
        None
    }

    /// How many requests there are, and where they stand.
    fn stats(&self) -> PullerStats;

    /// Ends the puller: nothing new is taken, what waits is answered `ShutDown`, what runs may finish
    /// within `grace` and is cancelled then. Returns when every thread was joined, at the latest a
    /// second after the grace; a thread whose service does not listen is left behind and named in the
    /// log. May be called again, from anywhere.
    fn shutdown(&self, grace: Duration);
}

/// The answer to one [`PullRequest`].
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

/// What a puller is doing at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PullerStats {
    /// Requests in the queue.
    pub queued: usize,
    /// Callers that wait until the queue has room.
    pub waiting: usize,
    /// Pulls that run.
    pub running: usize,
    /// Requests that were answered with an image.
    pub succeeded: u64,
    /// Requests that were answered with an error.
    pub failed: u64,
    /// Threads that the puller has.
    pub threads: usize,
}

/// Why a puller did not take a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectReason {
    /// The queue has no room.
    Full,
    /// The puller was shut down.
    ShutDown,
}

impl RejectReason {
    fn into_error(self) -> Error {
        match self {
            RejectReason::Full => Error::new(ErrorKind::ResourceExhausted, "the puller's queue is full"),
            RejectReason::ShutDown => {
                Error::new(ErrorKind::ShutDown, "the puller was shut down before the pull began")
            }
        }
    }
}

/// A request that a puller did not take, given back whole.
pub struct Rejected(Box<Returned>);

struct Returned {
    reason: RejectReason,
    cx: PullContext,
    request: PullRequest,
    results: Sender<PullResult>,
}

impl Rejected {
    fn new((pending, reason): (queue::Pending, RejectReason)) -> Self {
        let queue::Pending { cx, request, results, .. } = pending;
        Rejected(Box::new(Returned { reason, cx, request, results }))
    }

    /// Why it was not taken.
    pub fn reason(&self) -> RejectReason {
        self.0.reason
    }

    /// What was given.
    pub fn into_parts(self) -> (PullContext, PullRequest, Sender<PullResult>) {
        let Returned { cx, request, results, .. } = *self.0;
        (cx, request, results)
    }
}

impl fmt::Debug for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected")
            .field("reason", &self.0.reason)
            .field("request", &self.0.request)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.request.image.image, self.0.reason.into_error())
    }
}

impl std::error::Error for Rejected {}
