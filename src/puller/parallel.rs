//! Pulls images in parallel, on threads limited by a counting token channel.
//!
//! # Protocol
//!
//! A token is a message in the token channel: sending takes a token, and receiving returns it. A thread
//! exists only with a token, works off the queue, and returns its token when the queue is empty.
//!
//! 1. The caller puts its request into the queue.
//! 2. The caller takes a token if one is free, and starts a thread with it.
//! 3. The thread takes requests from the queue and pulls, until the queue is empty.
//! 4. The thread returns its token.
//! 5. The thread looks at the queue once more. If a request is there and a token is free, it takes the
//!    token and goes on with step 3.
//!
//! No request is left beside a free token. If a caller finds no token in step 2, each thread that holds
//! one returns it later and looks at the queue after that; the request is there by then. If the thread
//! finds the queue empty in step 5, the caller puts its request there later and finds the token that was
//! returned before. If a thread cannot be started, its token is returned, and the request is left to the
//! threads that hold one; if no thread does, all that waits is answered with the error. The tests run this
//! protocol under the model checker shuttle.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::image_puller::{ImagePuller, PullerStats};
use super::pulls::{DEFAULT_STACK_SIZE, Pulls};
use super::queued::{Pending, Queued, Requests};
use super::rejected::{RejectReason, Rejected};
use super::result::PullResult;
use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::service::{ImageService, PullRequest};

/// The most tokens that a puller may be given.
const MAX_TOKENS: i32 = 4096;

/// How long a thread that finds the queue empty keeps its token.
const IDLE_TIME: Duration = Duration::from_millis(5);

/// Pulls images side by side, no more of them at a time than it has tokens.
///
/// A request that finds no token waits in a queue, not on a thread: 10,000 requests at a limit of 4 are
/// 10,000 entries and 4 threads. Requests start in the order asked. A thread ends when it has found
/// nothing to do for 5 ms.
///
/// Without a limit there is a thread for each pull.
///
/// Dropping it is a [`shutdown`](ImagePuller::shutdown) without grace.
pub struct ParallelImagePuller<S: ImageService + 'static>(Arc<Parallel<S>>);

struct Parallel<S> {
    pulls: Arc<Pulls<S>>,
    /// `None` is no limit.
    tokens: Option<(Sender<()>, Receiver<()>)>,
    requests: Requests,
    queue: Receiver<Queued>,
    /// How many requests may be open: waiting, or running.
    max_open: usize,
    /// Tokens taken, also where there is no limit.
    taken: AtomicUsize,
    /// Threads ever started, for their names.
    started: AtomicUsize,
}

impl<S: ImageService + 'static> ImagePuller for ParallelImagePuller<S> {
    fn pull_image(&self, cx: PullContext, request: PullRequest, results: Sender<PullResult>) {
        if let Err(rejected) = self.try_pull_image(cx, request, results) {
            self.0.pulls.reject(rejected);
        }
    }

    fn try_pull_image(
        &self,
        cx: PullContext,
        request: PullRequest,
        results: Sender<PullResult>,
    ) -> Result<(), Rejected> {
        self.0.enqueue(Pending::new(cx, request, results))
    }

    fn capacity(&self) -> Option<usize> {
        self.0.tokens.as_ref().and_then(|(tokens, _)| tokens.capacity())
    }

    fn stats(&self) -> PullerStats {
        self.0.pulls.stats(self.0.pulls.waiting(), 0)
    }

    fn shutdown(&self, grace: Duration) {
        self.0.pulls.close();
        self.0.requests.close();
        self.0.refuse_all(&RejectReason::ShutDown.into_error());
        self.0.pulls.end(grace);
    }
}

impl<S: ImageService + 'static> Parallel<S> {
    /// Takes the request in, and sees to it that a thread comes for it.
    fn enqueue(self: &Arc<Self>, pending: Pending) -> Result<(), Rejected> {
        let Some(requests) = self.requests.sender() else {
            return Err(Rejected::new(pending, RejectReason::ShutDown));
        };
        let queued = self.pulls.admit(pending, self.max_open)?;
        // It has no bound, and its other end is here.
        let _ = requests.send(queued.clone());
        self.pulls.watch(&queued);
        if self.take_token() {
            self.start_thread();
        }
        Ok(())
    }

    fn take_token(&self) -> bool {
        let is_taken = self.tokens.as_ref().is_none_or(|(tokens, _)| tokens.try_send(()).is_ok());
        self.taken.fetch_add(usize::from(is_taken), Ordering::SeqCst);
        is_taken
    }

    fn return_token(&self) {
        self.taken.fetch_sub(1, Ordering::SeqCst);
        if let Some((_, tokens)) = &self.tokens {
            let _ = tokens.try_recv();
        }
    }

    /// Starts a thread that owns the token just taken.
    fn start_thread(self: &Arc<Self>) {
        let number = self.started.fetch_add(1, Ordering::Relaxed) + 1;
        let own = Arc::clone(self);
        if let Err(error) = self.pulls.spawn(format!("pull-{number}"), move || own.run()) {
            log::warn!("a pull has to wait for another thread: {error}");
            self.return_token();
            if self.taken.load(Ordering::SeqCst) == 0 {
                self.refuse_all(&error);
            }
        }
    }

    /// The life of a `pull-N` thread.
    fn run(&self) {
        loop {
            self.pull_while_any();
            self.return_token();
            if self.queue.is_empty() || !self.take_token() {
                return;
            }
        }
    }

    fn pull_while_any(&self) {
        let idle_time = if self.tokens.is_some() { IDLE_TIME } else { Duration::ZERO };
        while let Ok(queued) = self.queue.recv_timeout(idle_time) {
            let Some(mut pull) = self.pulls.begin(&queued) else { continue };
            let pulled = pull.pull_image();
            let size = pull.image_size(&pulled);
            pull.send_result(pulled, size);
        }
    }

    /// Answers all that waits.
    fn refuse_all(&self, error: &Error) {
        self.queue.try_iter().for_each(|queued| self.pulls.refuse_queued(&queued, error));
    }
}

impl<S: ImageService + 'static> ParallelImagePuller<S> {
    /// Makes a puller that runs at most `max_parallel_image_pulls` pulls at a time. `None`, or a number
    /// below 1, is no limit; a plain number is one: `new(service, 4)`.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) if the limit is above 4,096.
    pub fn new(service: S, max_parallel_image_pulls: impl Into<Option<i32>>) -> Result<Self, Error> {
        Self::builder(service).max_parallel_image_pulls(max_parallel_image_pulls).build()
    }

    /// Returns a builder for a puller with other settings than the defaults.
    pub fn builder(service: S) -> ParallelImagePullerBuilder<S> {
        ParallelImagePullerBuilder {
            service,
            max_parallel_image_pulls: None,
            max_queued: usize::MAX,
            stack_size: DEFAULT_STACK_SIZE,
        }
    }
}

impl<S: ImageService + 'static> Drop for ParallelImagePuller<S> {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
    }
}

impl<S: ImageService + 'static> fmt::Debug for ParallelImagePuller<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParallelImagePuller").field("stats", &self.stats()).finish_non_exhaustive()
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
    /// Sets how many pulls may run at a time, up to 4,096; `None`, or a number below 1, is no limit.
    /// Default: no limit.
    pub fn max_parallel_image_pulls(mut self, limit: impl Into<Option<i32>>) -> Self {
        self.max_parallel_image_pulls = limit.into();
        self
    }

    /// Sets how many requests may wait for a token; one more is answered `ResourceExhausted`, or given
    /// back by [`try_pull_image`](ImagePuller::try_pull_image). Default: no limit.
    pub fn max_queued(mut self, requests: usize) -> Self {
        self.max_queued = requests;
        self
    }

    /// Sets the stack of each thread, bytes. Default: 256 KiB.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = bytes;
        self
    }

    /// Makes the puller. Its threads start with the requests.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) if the limit is above 4,096.
    pub fn build(self) -> Result<ParallelImagePuller<S>, Error> {
        let limit = self.max_parallel_image_pulls.filter(|limit| *limit >= 1);
        if let Some(limit) = limit.filter(|limit| *limit > MAX_TOKENS) {
            let text = format!("max_parallel_image_pulls is {limit}; at most {MAX_TOKENS} are possible");
            return Err(Error::new(ErrorKind::InvalidConfig, text));
        }
        let limit = limit.and_then(|limit| usize::try_from(limit).ok());
        let (requests, queue) = unbounded();
        Ok(ParallelImagePuller(Arc::new(Parallel {
            pulls: Pulls::new(self.service, self.stack_size),
            tokens: limit.map(bounded),
            requests: Requests::new(requests),
            queue,
            max_open: self.max_queued.saturating_add(limit.unwrap_or(usize::MAX)),
            taken: AtomicUsize::new(0),
            started: AtomicUsize::new(0),
        })))
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use shuttle::sync::atomic::{AtomicUsize, Ordering};
    use shuttle::sync::{Arc, Mutex};
    use shuttle::thread;

    const TOKENS: usize = 2;
    const CALLERS: u32 = 3;

    /// The protocol at the head of this file on shuttle's threads, function by function. The queue and the
    /// token channel are taken as they are: each operation on them is one step.
    #[derive(Clone, Default)]
    struct Model {
        queue: Arc<Mutex<VecDeque<u32>>>,
        tokens: Arc<AtomicUsize>,
        taken: Arc<AtomicUsize>,
        /// How many starts of a thread the kernel refuses.
        refusals: Arc<AtomicUsize>,
        answered: Arc<Mutex<Vec<u32>>>,
        pulling: Arc<AtomicUsize>,
        threads: Arc<Mutex<Vec<thread::JoinHandle<()>>>>,
    }

    impl Model {
        fn enqueue(&self, request: u32) {
            self.queue.lock().unwrap().push_back(request);
            if self.take_token() {
                self.start_thread();
            }
        }

        fn take_token(&self) -> bool {
            let one_more = |taken: usize| (taken < TOKENS).then_some(taken + 1);
            let is_taken = self.tokens.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_ok();
            self.taken.fetch_add(usize::from(is_taken), Ordering::SeqCst);
            is_taken
        }

        fn return_token(&self) {
            self.taken.fetch_sub(1, Ordering::SeqCst);
            self.tokens.fetch_sub(1, Ordering::SeqCst);
        }

        fn start_thread(&self) {
            let fewer = |left: usize| left.checked_sub(1);
            if self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).is_err() {
                let own = self.clone();
                self.threads.lock().unwrap().push(thread::spawn(move || own.run()));
                return;
            }
            self.return_token();
            if self.taken.load(Ordering::SeqCst) == 0 {
                while let Some(request) = self.pop() {
                    self.answered.lock().unwrap().push(request);
                }
            }
        }

        fn run(&self) {
            loop {
                while let Some(request) = self.pop() {
                    assert!(self.pulling.fetch_add(1, Ordering::SeqCst) < TOKENS, "a pull without a token");
                    thread::yield_now();
                    self.pulling.fetch_sub(1, Ordering::SeqCst);
                    self.answered.lock().unwrap().push(request);
                }
                self.return_token();
                if self.queue.lock().unwrap().is_empty() || !self.take_token() {
                    return;
                }
            }
        }

        fn pop(&self) -> Option<u32> {
            self.queue.lock().unwrap().pop_front()
        }
    }

    /// Lets the callers ask side by side, twice each, and waits for all threads.
    fn check(refusals: usize) {
        let model = Model { refusals: Arc::new(AtomicUsize::new(refusals)), ..Model::default() };
        let callers = (0..CALLERS).map(|caller| {
            let model = model.clone();
            thread::spawn(move || [2 * caller, 2 * caller + 1].into_iter().for_each(|n| model.enqueue(n)))
        });
        callers.collect::<Vec<_>>().into_iter().for_each(|caller| caller.join().unwrap());
        loop {
            let Some(thread) = model.threads.lock().unwrap().pop() else { break };
            thread.join().unwrap();
        }
        let mut answered = std::mem::take(&mut *model.answered.lock().unwrap());
        answered.sort_unstable();
        assert_eq!(answered, (0..2 * CALLERS).collect::<Vec<_>>(), "each request has one answer");
        assert_eq!(model.tokens.load(Ordering::SeqCst), 0, "every token was returned");
    }

    #[test]
    fn model_no_interleaving_leaves_a_request_beside_a_free_token() {
        shuttle::check_random(|| check(0), 3_000);
    }

    #[test]
    fn model_nor_does_one_in_which_threads_cannot_be_started() {
        for refusals in 1..4 {
            shuttle::check_random(move || check(refusals), 1_000);
        }
    }
}
