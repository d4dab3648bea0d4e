//! Pulls in parallel, bounded by a counting channel of tokens.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use crossbeam_utils::Backoff;
use parking_lot::MutexGuard;

use super::desk::{Desk, State};
use super::queue::Pending;
use super::{DEFAULT_STACK_SIZE, ImagePuller, PullResult, PullerStats, RejectReason, Rejected};
use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::service::{ImageService, PullRequest};

/// The most tokens that a puller may be given.
const MAX_TOKENS: i32 = 4096;

/// How long a thread that has nothing to do waits for more before it ends.
const LINGERING: Duration = Duration::from_millis(20);

/// Pulls images side by side, no more of them at a time than it has tokens.
///
/// A request that finds no token waits in a queue, not on a thread: 10,000 requests at a limit of 4
/// are 10,000 entries and 4 threads. Requests start in the order asked. Threads end when nothing is
/// left for them to do.
///
/// Dropping it is a [`shutdown`](ImagePuller::shutdown) without grace.
pub struct ParallelImagePuller<S: ImageService + 'static> {
    desk: Arc<Desk<S>>,
    tokens: Tokens,
    max_queued: usize,
}

impl<S: ImageService + 'static> ParallelImagePuller<S> {
    /// A puller that runs at most `max_parallel_image_pulls` pulls at a time; `None`, or a number
    /// below 1, is no limit: a thread for each pull that runs.
    ///
    /// # Errors
    /// `InvalidConfig` if the limit is above 4,096.
    pub fn new(service: S, max_parallel_image_pulls: Option<i32>) -> Result<Self, Error> {
        Self::builder(service).max_parallel_image_pulls(max_parallel_image_pulls).build()
    }

    /// A puller with other settings than the defaults.
    pub fn builder(service: S) -> ParallelImagePullerBuilder<S> {
        ParallelImagePullerBuilder {
            service,
            max_parallel_image_pulls: None,
            max_queued: usize::MAX,
            stack_size: DEFAULT_STACK_SIZE,
        }
    }

    /// Puts the request into the queue, and sees to it that a thread comes for it.
    fn enqueue(&self, pending: Box<Pending>) -> Result<(), (Box<Pending>, RejectReason)> {
        let token = pending.cx.cancel_token().cloned();
        let deadline = pending.cx.deadline();
        let (number, has_token) = {
            let mut state = self.desk.state();
            if !state.is_open() {
                return Err((pending, RejectReason::ShutDown));
            }
            let has_token = state.queue.len() >= state.looking && self.tokens.take();
            if has_token {
                state.with_token += 1;
                state.looking += 1;
                state.expect_thread();
            } else if state.queue.len() >= self.max_queued.saturating_add(state.looking) {
                return Err((pending, RejectReason::Full));
            }
            (state.queue.push(pending), has_token)
        };
        if !has_token {
            self.desk.work_added.notify_one();
        }
        if token.is_some() || deadline.is_some() {
            self.desk.watch(number, token.as_ref(), deadline);
        }
        if has_token {
            self.start_thread();
        }
        Ok(())
    }

    /// Starts a thread for a token that was taken.
    ///
    /// If that fails, what waits is left to the threads that live; if there are none, it is answered.
    fn start_thread(&self) {
        let tokens = self.tokens.clone();
        let name = format!("pull-{}", self.tokens.next_name());
        let Err(error) = self.desk.start_thread(name, move |desk| pull_while_any(desk, &tokens)) else {
            return;
        };
        log::warn!("a pull has to wait for another thread: {error}");
        let is_last = {
            let mut state = self.desk.state();
            self.tokens.give_back();
            state.looking -= 1;
            state.with_token -= 1;
            state.with_token == 0
        };
        if is_last {
            self.desk.refuse_all(&error);
        }
    }
}

/// The life of a `pull-N` thread: one request after the other, and the end when none is left.
fn pull_while_any<S: ImageService + 'static>(desk: &Arc<Desk<S>>, tokens: &Tokens) {
    let mut next = take_or_end(desk, desk.state(), tokens);
    while let Some(pending) = next {
        desk.work(*pending);
        let mut state = desk.state();
        state.looking += 1;
        next = take_or_end(desk, state, tokens);
    }
}

/// The request that has waited longest. If none does, looks for one a while longer, for a new thread
/// costs more than that; then gives the token back.
///
/// All under the queue's lock: whoever finds the queue empty gives the token back before the lock is
/// free, and whoever asks later finds that token.
fn take_or_end<S: ImageService + 'static>(
    desk: &Desk<S>,
    mut state: MutexGuard<'_, State>,
    tokens: &Tokens,
) -> Option<Box<Pending>> {
    let backoff = Backoff::new();
    let mut found = state.queue.take_first();
    while found.is_none() && !backoff.is_completed() {
        MutexGuard::unlocked(&mut state, || backoff.snooze());
        found = state.queue.take_first();
    }
    if found.is_none() && state.is_open() {
        desk.work_added.wait_for(&mut state, LINGERING);
        found = state.queue.take_first();
    }
    state.looking -= 1;
    if found.is_none() {
        tokens.give_back();
        state.with_token -= 1;
    }
    found
}

impl<S: ImageService + 'static> ImagePuller for ParallelImagePuller<S> {
    fn pull_image(&self, cx: PullContext, request: PullRequest, results: Sender<PullResult>) {
        if let Err((pending, reason)) = self.enqueue(Pending::new(cx, request, results)) {
            self.desk.refuse(*pending, reason.into_error());
        }
    }

    fn try_pull_image(
        &self,
        cx: PullContext,
        request: PullRequest,
        results: Sender<PullResult>,
    ) -> Result<(), Rejected> {
        self.enqueue(Pending::new(cx, request, results))
            .map_err(|(pending, reason)| Rejected::new(*pending, reason))
    }

    fn capacity(&self) -> Option<usize> {
        self.tokens.channel.as_ref().and_then(|(taken, _)| taken.capacity())
    }

    fn stats(&self) -> PullerStats {
        self.desk.stats()
    }

    fn shutdown(&self, grace: Duration) {
        self.desk.shutdown(grace);
    }
}

impl<S: ImageService + 'static> Drop for ParallelImagePuller<S> {
    fn drop(&mut self) {
        self.desk.shutdown(Duration::ZERO);
    }
}

impl<S: ImageService + 'static> fmt::Debug for ParallelImagePuller<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParallelImagePuller").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// As many as pulls may run; a channel without one is no limit.
#[derive(Clone)]
struct Tokens {
    channel: Option<(Sender<()>, Receiver<()>)>,
    names: Arc<AtomicU64>,
}

impl Tokens {
    fn new(limit: Option<usize>) -> Self {
        Tokens { channel: limit.map(bounded), names: Arc::default() }
    }

    fn take(&self) -> bool {
        self.channel.as_ref().is_none_or(|(taken, _)| taken.try_send(()).is_ok())
    }

    fn give_back(&self) {
        if let Some((_, taken)) = &self.channel {
            let _ = taken.try_recv();
        }
    }

    fn next_name(&self) -> u64 {
        self.names.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Builds a [`ParallelImagePuller`].
#[must_use]
pub struct ParallelImagePullerBuilder<S> {
    service: S,
    max_parallel_image_pulls: Option<i32>,
    max_queued: usize,
    stack_size: usize,
}

impl<S: ImageService + 'static> ParallelImagePullerBuilder<S> {
    /// How many pulls may run at a time, up to 4,096; `None`, or a number below 1, is no limit.
    /// Default: no limit.
    pub fn max_parallel_image_pulls(mut self, limit: Option<i32>) -> Self {
        self.max_parallel_image_pulls = limit;
        self
    }

    /// How many requests may wait for a token; one more is answered `ResourceExhausted`, or given
    /// back by [`try_pull_image`](ImagePuller::try_pull_image). Default: no limit.
    pub fn max_queued(mut self, requests: usize) -> Self {
        self.max_queued = requests;
        self
    }

    /// The stack of each thread, bytes. Default: 256 KiB.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = bytes;
        self
    }

    /// The puller.
    ///
    /// # Errors
    /// `InvalidConfig` if the limit is above 4,096.
    pub fn build(self) -> Result<ParallelImagePuller<S>, Error> {
        let limit = match self.max_parallel_image_pulls {
            Some(limit) if limit > MAX_TOKENS => {
                return Err(Error::new(
                    ErrorKind::InvalidConfig,
                    format!("max_parallel_image_pulls is {limit}; at most {MAX_TOKENS} are possible"),
                ));
            }
            Some(limit) => usize::try_from(limit).ok().filter(|limit| *limit > 0),
            None => None,
        };
        Ok(ParallelImagePuller {
            desk: Desk::new(self.service, self.stack_size),
            tokens: Tokens::new(limit),
            max_queued: self.max_queued,
        })
    }
}

impl<S> fmt::Debug for ParallelImagePullerBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParallelImagePullerBuilder")
            .field("max_parallel_image_pulls", &self.max_parallel_image_pulls)
            .field("max_queued", &self.max_queued)
            .field("stack_size", &self.stack_size)
            .finish_non_exhaustive()
    }
}
