//! Pulls one image at a time, from a bounded queue.
//!
//! # Protocol
//!
//! The queue is a channel with room for [`MAX_IMAGE_PULL_REQUESTS`]. One worker thread reads it until the
//! puller ends; after a panic of the service it answers the request, and comes back a second later.
//!
//! A caller that finds the queue full waits for its turn in a fair semaphore with one permit. The caller
//! with the permit waits for room in the channel. Both waits end with the request's cancel, its deadline
//! and the shutdown, so a caller is blocked by a slow pull, but never past its own context. A request that
//! is in the queue is answered at once by the same three; its place in the channel stays taken until the
//! worker pops it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};

use super::image_puller::{ImagePuller, PullerStats};
use super::pulls::{DEFAULT_STACK_SIZE, Pulls};
use super::queued::{Pending, Queued, Requests};
use super::rejected::{RejectReason, Rejected};
use super::result::PullResult;
use crate::clock::{Clock, SystemClock};
use crate::context::PullContext;
use crate::error::Error;
use crate::service::{ImageService, PullRequest};
use crate::sync::Semaphore;
use crate::sync::until_by;

/// How many requests wait for the worker before callers have to wait themselves.
pub const MAX_IMAGE_PULL_REQUESTS: usize = 10;

/// How long the worker rests after the image service panicked.
const RESTART_PERIOD: Duration = Duration::from_secs(1);

/// Pulls images one at a time, in the order asked, on one long-lived thread.
///
/// Up to [`MAX_IMAGE_PULL_REQUESTS`] requests wait for it; one more makes
/// [`pull_image`](ImagePuller::pull_image) wait until there is room, its context ends, or the puller is
/// shut down. Callers that wait come in in the order asked. A request that is cancelled, or whose deadline
/// passes, in the queue is answered at once; its place stays taken until the worker comes to it.
///
/// If the service panics, the request is answered, and the worker goes on a second later.
///
/// Dropping it is a [`shutdown`](ImagePuller::shutdown) without grace.
pub struct SerialImagePuller<S: ImageService + 'static>(Arc<Serial<S>>);

struct Serial<S> {
    pulls: Arc<Pulls<S>>,
    requests: Requests,
    queue: Receiver<Queued>,
    /// The right to offer a request to the queue.
    turn: Semaphore,
    /// Callers that wait for their turn, or for room.
    waiting: AtomicUsize,
}

impl<S: ImageService + 'static> ImagePuller for SerialImagePuller<S> {
    fn pull_image(&self, cx: PullContext, request: PullRequest, results: Sender<PullResult>) {
        let pending = Pending::new(cx, request, results);
        if let Err(rejected) = self.0.try_enqueue(pending).or_else(|full| self.0.wait_and_enqueue(full)) {
            self.0.pulls.reject(rejected);
        }
    }

    fn try_pull_image(
        &self,
        cx: PullContext,
        request: PullRequest,
        results: Sender<PullResult>,
    ) -> Result<(), Rejected> {
        self.0.try_enqueue(Pending::new(cx, request, results))
    }

    fn capacity(&self) -> Option<usize> {
        Some(1)
    }

    fn stats(&self) -> PullerStats {
        self.0.pulls.stats(self.0.queue.len(), self.0.waiting.load(Ordering::Relaxed))
    }

    fn shutdown(&self, grace: Duration) {
        let shut_down = RejectReason::ShutDown.into_error();
        self.0.pulls.close();
        self.0.requests.close();
        self.0.queue.try_iter().for_each(|queued| self.0.pulls.refuse_queued(&queued, &shut_down));
        self.0.pulls.end(grace);
    }
}

impl<S: ImageService + 'static> Serial<S> {
    /// Puts the request into the queue if there is room and no other caller waits.
    fn try_enqueue(&self, pending: Pending) -> Result<(), Rejected> {
        let Some(requests) = self.requests.sender() else {
            return Err(Rejected::new(pending, RejectReason::ShutDown));
        };
        let turn = self.turn.try_acquire().filter(|_| !requests.is_full());
        if turn.is_none() {
            return Err(Rejected::new(pending, RejectReason::Full));
        }
        let queued = self.pulls.admit(pending, usize::MAX)?;
        // There is room: only the caller whose turn it is sends.
        let _ = requests.send(queued.clone());
        self.pulls.watch(&queued);
        Ok(())
    }

    /// Waits for its turn and then for room, until the context ends or the shutdown begins.
    fn wait_and_enqueue(&self, rejected: Rejected) -> Result<(), Rejected> {
        let (pending, _) = rejected.into_pending();
        let Some(requests) = self.requests.sender() else {
            return Err(Rejected::new(pending, RejectReason::ShutDown));
        };
        let cx = pending.cx.clone();
        let queued = self.pulls.admit(pending, usize::MAX)?;
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let is_sent = self.offer_in_turn(&requests, &cx, &queued);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        if is_sent {
            self.pulls.watch(&queued);
        } else {
            self.pulls.refuse_ended(&queued, &cx);
        }
        Ok(())
    }

    fn offer_in_turn(&self, requests: &Sender<Queued>, cx: &PullContext, queued: &Queued) -> bool {
        let waiter = self.turn.acquire();
        let turn = select! {
            recv(waiter.granted()) -> turn => turn.ok(),
            recv(cx.cancelled()) -> _ => None,
            recv(cx.expired()) -> _ => None,
            recv(self.pulls.closing()) -> _ => None,
        };
        turn.is_some_and(|_turn| {
            select! {
                send(requests, queued.clone()) -> sent => sent.is_ok(),
                recv(cx.cancelled()) -> _ => false,
                recv(cx.expired()) -> _ => false,
                recv(self.pulls.closing()) -> _ => false,
            }
        })
    }

    /// The life of the `pull-serial` thread.
    fn run(&self, clock: &dyn Clock) {
        until_by(clock, self.pulls.closing(), RESTART_PERIOD, || {
            while let Ok(queued) = self.queue.recv() {
                let Some(mut pull) = self.pulls.begin(&queued) else { continue };
                let pulled = pull.pull_image();
                let size = pull.image_size(&pulled);
                let has_panicked = pull.send_result(pulled, size);
                if has_panicked {
                    return;
                }
            }
        });
    }
}

impl<S: ImageService + 'static> SerialImagePuller<S> {
    /// Makes a puller with the defaults, and starts its thread.
    ///
    /// # Errors
    /// [`ResourceExhausted`](crate::ErrorKind::ResourceExhausted) if the thread cannot be started.
    pub fn new(service: S) -> Result<Self, Error> {
        Self::builder(service).build()
    }

    /// Returns a builder for a puller with other settings than the defaults.
    pub fn builder(service: S) -> SerialImagePullerBuilder<S> {
        SerialImagePullerBuilder { service, stack_size: DEFAULT_STACK_SIZE, clock: Arc::new(SystemClock) }
    }
}

impl<S: ImageService + 'static> Drop for SerialImagePuller<S> {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
    }
}

impl<S: ImageService + 'static> fmt::Debug for SerialImagePuller<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialImagePuller").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// Builds a [`SerialImagePuller`].
#[must_use]
pub struct SerialImagePullerBuilder<S> {
    service: S,
    stack_size: usize,
    clock: Arc<dyn Clock>,
}

impl<S: ImageService + 'static> SerialImagePullerBuilder<S> {
    /// Sets the stack of the worker's thread, bytes. Default: 256 KiB.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = bytes;
        self
    }

    /// Sets the clock by which the worker rests after a panic. Default: the machine's.
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Makes the puller, and starts its thread.
    ///
    /// # Errors
    /// [`ResourceExhausted`](crate::ErrorKind::ResourceExhausted) if the thread cannot be started.
    pub fn build(self) -> Result<SerialImagePuller<S>, Error> {
        let (requests, queue) = bounded(MAX_IMAGE_PULL_REQUESTS);
        let serial = Arc::new(Serial {
            pulls: Pulls::new(self.service, self.stack_size),
            requests: Requests::new(requests),
            queue,
            turn: Semaphore::new(1),
            waiting: AtomicUsize::new(0),
        });
        let (own, clock) = (Arc::clone(&serial), self.clock);
        serial.pulls.spawn("pull-serial".to_owned(), move || own.run(&*clock))?;
        Ok(SerialImagePuller(serial))
    }
}

impl<S> fmt::Debug for SerialImagePullerBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialImagePullerBuilder")
            .field("stack_size", &self.stack_size)
            .finish_non_exhaustive()
    }
}
