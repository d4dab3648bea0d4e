//! Pulls one image at a time, from a bounded queue.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use crossbeam_utils::Backoff;

use super::desk::{Desk, Worked};
use super::queue::Pending;
use super::until::until_by;
use super::{DEFAULT_STACK_SIZE, ImagePuller, PullResult, PullerStats, RejectReason, Rejected};
use crate::clock::{Clock, SystemClock};
use crate::context::PullContext;
use crate::error::Error;
use crate::service::{ImageService, PullRequest};

/// How many requests wait for the worker before those who ask have to wait themselves.
pub const MAX_IMAGE_PULL_REQUESTS: usize = 10;

/// About how long it takes until a thread that sleeps is awake.
const WAKING: Duration = Duration::from_micros(30);

/// How long the worker rests after the image service panicked.
const RESTART_PERIOD: Duration = Duration::from_secs(1);

/// Pulls images one at a time, in the order asked, on one long-lived thread.
///
/// Up to [`MAX_IMAGE_PULL_REQUESTS`] requests wait for it; one more makes
/// [`pull_image`](ImagePuller::pull_image) wait, until there is room, or its context ends, or the
/// puller does. If the service panics, the request is answered, and the worker goes on a second later.
///
/// Dropping it is a [`shutdown`](ImagePuller::shutdown) without grace.
pub struct SerialImagePuller<S: ImageService + 'static> {
    desk: Arc<Desk<S>>,
    /// Numbers of requests that stand in the desk's queue. One that was cancelled keeps its seat
    /// until the worker comes to it.
    seats: (Sender<u64>, Receiver<u64>),
    /// Callers that wait for a seat.
    standing: AtomicUsize,
    clock: Arc<dyn Clock>,
}

impl<S: ImageService + 'static> SerialImagePuller<S> {
    /// A puller with the defaults. Its thread is started at the first request.
    ///
    /// # Errors
    /// None today.
    pub fn new(service: S) -> Result<Self, Error> {
        Self::builder(service).build()
    }

    /// A puller with other settings than the defaults.
    pub fn builder(service: S) -> SerialImagePullerBuilder<S> {
        SerialImagePullerBuilder { service, stack_size: DEFAULT_STACK_SIZE, clock: Arc::new(SystemClock) }
    }

    /// Puts the request on the desk, where its cancel and its deadline can reach it, and sees to it
    /// that there is a worker. Tells the number to take a seat with.
    fn enter(&self, pending: Box<Pending>) -> Result<u64, Box<Pending>> {
        let token = pending.cx.cancel_token().cloned();
        let deadline = pending.cx.deadline();
        let (number, needs_worker) = {
            let mut state = self.desk.state();
            if !state.is_open() {
                return Err(pending);
            }
            let needs_worker = state.with_token == 0;
            if needs_worker {
                state.with_token = 1;
                state.expect_thread();
            }
            (state.queue.push(pending), needs_worker)
        };
        if token.is_some() || deadline.is_some() {
            self.desk.watch(number, token.as_ref(), deadline);
        }
        if needs_worker {
            self.start_worker();
        }
        Ok(number)
    }

    fn start_worker(&self) {
        let seats = self.seats.1.clone();
        let clock = Arc::clone(&self.clock);
        let started = self.desk.start_thread("pull-serial".into(), move |desk| {
            until_by(&*clock, desk.closing(), RESTART_PERIOD, || pull_until_panic(desk, &seats));
        });
        if let Err(error) = started {
            // Those who took a seat, or wait for one, since the worker was expected.
            while self.seats.1.try_recv().is_ok() {}
            self.desk.state().with_token = 0;
            self.desk.refuse_all(&error);
        }
    }

    /// Takes a seat, or waits for one; not longer than the request's context lasts, or the puller.
    fn take_seat(&self, number: u64, cx: &PullContext) {
        if briefly(|| self.seats.0.try_send(number).ok()).is_some() {
            return;
        }
        self.standing.fetch_add(1, Ordering::Relaxed);
        select! {
            send(self.seats.0, number) -> _ => {}
            // Whoever made it end answers for it, but the deadline's thread may be late, or missing.
            recv(cx.cancelled()) -> _ => {}
            recv(cx.expired()) -> _ => if let Err(error) = cx.check() {
                self.desk.refuse_queued(number, error);
            },
            recv(self.desk.closing()) -> _ => {}
        }
        self.standing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Works off the queue until the puller ends; or the service panics, which ends this round.
fn pull_until_panic<S: ImageService + 'static>(desk: &Desk<S>, seats: &Receiver<u64>) {
    loop {
        let Some(number) = next_number(desk, seats) else { return };
        // In a statement of its own: the lock is free before the work begins.
        let pending = desk.state().queue.take(number);
        if let Some(pending) = pending
            && desk.work(*pending) == Worked::Panicked
        {
            return;
        }
    }
}

/// The number of the request that has waited longest; `None` when the puller ends.
fn next_number<S: ImageService + 'static>(desk: &Desk<S>, seats: &Receiver<u64>) -> Option<u64> {
    briefly(|| seats.try_recv().ok()).or_else(|| {
        select! {
            recv(seats) -> number => number.ok(),
            recv(desk.closing()) -> _ => None,
        }
    })
}

/// Tries for as long as it takes to be woken: who sleeps sooner makes the other side sleep, too, and
/// each request costs two wakings then.
fn briefly<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let backoff = Backoff::new();
    let mut given_up_at = None;
    loop {
        let done = attempt();
        if done.is_some() {
            return done;
        }
        backoff.snooze();
        if backoff.is_completed() {
            let now = Instant::now();
            if now >= *given_up_at.get_or_insert(now + WAKING) {
                return None;
            }
        }
    }
}

impl<S: ImageService + 'static> ImagePuller for SerialImagePuller<S> {
    fn pull_image(&self, cx: PullContext, request: PullRequest, results: Sender<PullResult>) {
        let waiting = cx.clone();
        match self.enter(Pending::new(cx, request, results)) {
            Ok(number) => self.take_seat(number, &waiting),
            Err(pending) => self.desk.refuse(*pending, RejectReason::ShutDown.into_error()),
        }
    }

    fn try_pull_image(
        &self,
        cx: PullContext,
        request: PullRequest,
        results: Sender<PullResult>,
    ) -> Result<(), Rejected> {
        let number = self
            .enter(Pending::new(cx, request, results))
            .map_err(|pending| Rejected::new(*pending, RejectReason::ShutDown))?;
        if self.seats.0.try_send(number).is_ok() {
            return Ok(());
        }
        // Without a seat it goes back, unless a cancel or the end has answered it meanwhile.
        let pending = self.desk.state().queue.take(number);
        pending.map_or(Ok(()), |pending| Err(Rejected::new(*pending, RejectReason::Full)))
    }

    fn capacity(&self) -> Option<usize> {
        Some(1)
    }

    fn stats(&self) -> PullerStats {
        let stats = self.desk.stats();
        let waiting = self.standing.load(Ordering::Relaxed);
        PullerStats { queued: stats.queued.saturating_sub(waiting), waiting, ..stats }
    }

    fn shutdown(&self, grace: Duration) {
        self.desk.shutdown(grace);
    }
}

impl<S: ImageService + 'static> Drop for SerialImagePuller<S> {
    fn drop(&mut self) {
        self.desk.shutdown(Duration::ZERO);
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
    /// The stack of the worker's thread, bytes. Default: 256 KiB.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = bytes;
        self
    }

    /// The clock by which the worker rests after a panic. Default: the machine's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The puller.
    ///
    /// # Errors
    /// None today.
    pub fn build(self) -> Result<SerialImagePuller<S>, Error> {
        Ok(SerialImagePuller {
            desk: Desk::new(self.service, self.stack_size),
            seats: bounded(MAX_IMAGE_PULL_REQUESTS),
            standing: AtomicUsize::new(0),
            clock: self.clock,
        })
    }
}

impl<S> fmt::Debug for SerialImagePullerBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialImagePullerBuilder")
            .field("stack_size", &self.stack_size)
            .finish_non_exhaustive()
    }
}
