//! The trait that both pullers implement.

use std::time::Duration;

use crossbeam_channel::Sender;

use super::rejected::Rejected;
use super::result::PullResult;
use crate::context::PullContext;
use crate::service::PullRequest;

/// Pulls images, and answers on channels.
///
/// Each request gets exactly one result: on success and error, a panic of the image service, a cancel, a
/// deadline, a shutdown, or a thread that could not be started.
///
/// An implementor writes [`pull_image`](Self::pull_image); the rest has defaults.
pub trait ImagePuller: Send + Sync {
    /// Asks for a pull; exactly one [`PullResult`] is sent to `results`.
    ///
    /// While a channel is full, its result waits: the result of a pull that ran keeps its token, or the
    /// worker; one that was cancelled, or whose deadline passed, before it began keeps neither. A result is
    /// dropped, with a line in the log, only if
    ///
    /// - its receiver is gone, or
    /// - the shutdown has begun and its channel has no room, or
    /// - the request is refused at once, on the caller's own thread, for the queue is full or the puller
    ///   was shut down, and its channel has no room.
    fn pull_image(&self, cx: PullContext, request: PullRequest, results: Sender<PullResult>);

    /// Asks for a pull if that is possible without waiting. By default the same as
    /// [`pull_image`](Self::pull_image), which never refuses.
    ///
    /// # Errors
    /// Gives everything back when the queue is full or the puller was shut down.
    fn try_pull_image(
        &self,
        cx: PullContext,
        request: PullRequest,
        results: Sender<PullResult>,
    ) -> Result<(), Rejected> {
        self.pull_image(cx, request, results);
        Ok(())
    }

    /// Returns how many pulls it runs side by side. `None` is no limit, and the default.
    fn capacity(&self) -> Option<usize> {
        None
    }

    /// Returns how many requests there are, and where they stand. All zero by default.
    fn stats(&self) -> PullerStats {
        PullerStats::default()
    }

    /// Ends the puller: new and waiting requests are answered `ShutDown`, running pulls may finish
    /// within `grace` and is cancelled then. Returns when every thread was joined, at the latest a second
    /// after the grace; a thread whose service does not listen is left behind and named in the log. May be
    /// called again, from anywhere. Does nothing by default.
    fn shutdown(&self, grace: Duration) {
        let _ = grace;
    }
}

/// What a puller is doing at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PullerStats {
    /// Requests in the queue; in that of a serial puller also those that were answered, but not popped yet.
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
