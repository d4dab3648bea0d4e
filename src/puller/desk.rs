//! What both pullers share: where requests are taken in, worked on and answered, and how it all ends.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::queue::{Pending, Queue};
use super::{PullResult, PullerStats, RejectReason};
use crate::context::CancelToken;
use crate::error::{Error, ErrorKind, Phase};
use crate::progress::ProgressEvent;
use crate::service::{ImageService, PulledImage};

/// How long a cancelled pull may take to end before its thread is left behind.
const LISTENING_TIME: Duration = Duration::from_millis(900);

pub(super) struct Desk<S> {
    service: S,
    stack_size: usize,
    state: Mutex<State>,
    thread_ended: Condvar,
    /// For threads that have nothing to do.
    pub(super) work_added: Condvar,
    deadline_added: Condvar,
    /// Disconnected when the shutdown begins.
    closing: Receiver<Infallible>,
    /// Cancels what runs, when the shutdown's grace is over.
    stop: CancelToken,
    running: AtomicUsize,
    succeeded: AtomicU64,
    failed: AtomicU64,
}

pub(super) struct State {
    pub(super) queue: Queue,
    /// `None` once the shutdown has begun.
    open: Option<Sender<Infallible>>,
    threads: Vec<JoinHandle<()>>,
    /// Threads that run, and those that are being started.
    alive: usize,
    /// Those of them that an earlier shutdown gave up on.
    left_behind: Vec<ThreadId>,
    has_timer: bool,
    /// Threads that hold a token, or are being started for one.
    pub(super) with_token: usize,
    /// Those of them that will look into the queue before they end: new ones, and ones that have
    /// nothing to do.
    pub(super) looking: usize,
}

impl State {
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Counts a thread that is about to be started, so that a shutdown waits for it.
    pub(super) fn expect_thread(&mut self) {
        self.alive += 1;
    }

    /// Whether all threads have ended, but those left behind and the one that asks.
    fn have_ended(&self, me: ThreadId) -> bool {
        let mine = usize::from(self.threads.iter().any(|handle| handle.thread().id() == me));
        self.alive <= self.left_behind.len() + mine
    }
}

/// How a pull went, for the thread that worked on it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Worked {
    Well,
    /// The service panicked; the request was answered all the same.
    Panicked,
}

impl<S: ImageService + 'static> Desk<S> {
    pub(super) fn new(service: S, stack_size: usize) -> Arc<Self> {
        let (open, closing) = bounded(0);
        Arc::new(Desk {
            service,
            stack_size,
            state: Mutex::new(State {
                queue: Queue::default(),
                open: Some(open),
                threads: Vec::new(),
                alive: 0,
                left_behind: Vec::new(),
                has_timer: false,
                with_token: 0,
                looking: 0,
            }),
            thread_ended: Condvar::new(),
            work_added: Condvar::new(),
            deadline_added: Condvar::new(),
            closing,
            stop: CancelToken::new(),
            running: AtomicUsize::new(0),
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// A channel that is disconnected when the shutdown begins.
    pub(super) fn closing(&self) -> &Receiver<Infallible> {
        &self.closing
    }

    pub(super) fn stats(&self) -> PullerStats {
        let (queued, threads) = {
            let state = self.state();
            (state.queue.len(), state.alive)
        };
        PullerStats {
            queued,
            waiting: 0,
            running: self.running.load(Ordering::Relaxed),
            succeeded: self.succeeded.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            threads,
        }
    }

    // ---- taking in ----

    /// Sees to it that a request that waits is taken out by its cancel and by its deadline.
    ///
    /// The hook goes in after the request, for it may run at once.
    pub(super) fn watch(
        self: &Arc<Self>,
        number: u64,
        token: Option<&CancelToken>,
        deadline: Option<Instant>,
    ) {
        if let Some(token) = token {
            let desk = Arc::downgrade(self);
            let hook = token.on_cancel(move || {
                if let Some(desk) = desk.upgrade() {
                    desk.refuse_queued(number, cancelled());
                }
            });
            // One that was taken meanwhile gives its hook back, dropped here and not under the lock.
            let taken_meanwhile = self.state().queue.attach(number, hook);
            drop(taken_meanwhile);
        }
        if deadline.is_some() {
            self.start_timer();
            self.deadline_added.notify_one();
        }
    }

    /// Takes the request out of the queue and answers it with `error`; nothing if it has left already.
    pub(super) fn refuse_queued(&self, number: u64, error: Error) {
        let pending = self.state().queue.take(number);
        if let Some(pending) = pending {
            self.refuse(*pending, error);
        }
    }

    /// Answers every request in the queue with `error`.
    pub(super) fn refuse_all(&self, error: &Error) {
        let waiting = self.state().queue.drain();
        for pending in waiting {
            self.refuse(pending, error.clone());
        }
    }

    /// Answers a request that no pull was begun for. The thread may be anyone's, so the result is only
    /// offered.
    pub(super) fn refuse(&self, pending: Pending, error: Error) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let Pending { request, results, asked_at, hook, .. } = pending;
        drop(hook);
        let error = error.with_image(&request.image.image).with_phase(Phase::Queued);
        offer(
            &results,
            PullResult {
                id: request.id,
                image: request.image,
                outcome: Err(error),
                image_size: None,
                wait_duration: asked_at.elapsed(),
                pull_duration: Duration::ZERO,
            },
        );
    }

    // ---- working ----

    /// Pulls, and hands the result over: the token, or the worker, is busy until that is done.
    pub(super) fn work(&self, pending: Pending) -> Worked {
        let Pending { cx, request, results, asked_at, hook } = pending;
        drop(hook);
        self.running.fetch_add(1, Ordering::Relaxed);
        let begun_at = Instant::now();
        let cx = cx.or_cancelled_by(&self.stop);

        let pulled = catch_unwind(AssertUnwindSafe(|| {
            cx.check().map_err(|error| error.with_phase(Phase::Queued))?;
            cx.report(&ProgressEvent::Started);
            self.service.pull_image(&cx, &request)
        }));
        let (outcome, mut worked) = match pulled {
            Ok(outcome) => (outcome.map_err(|error| error.with_image(&request.image.image)), Worked::Well),
            Err(panic) => (Err(panicked(&*panic, &request.image.image)), Worked::Panicked),
        };
        let image_size = outcome.as_ref().ok().filter(|pulled| !pulled.image_ref.is_empty()).and_then(|_| {
            catch_unwind(AssertUnwindSafe(|| self.service.image_size(&cx, &request.image)))
                .unwrap_or_else(|panic| {
                    worked = Worked::Panicked;
                    Err(panicked(&*panic, &request.image.image))
                })
                .inspect_err(|error| log::warn!("the size of a pulled image is not known: {error}"))
                .ok()
        });

        self.count(&outcome);
        self.hand_over(
            &results,
            PullResult {
                id: request.id,
                image: request.image,
                outcome,
                image_size,
                wait_duration: begun_at.duration_since(asked_at),
                pull_duration: begun_at.elapsed(),
            },
        );
        worked
    }

    fn count(&self, outcome: &Result<PulledImage, Error>) {
        let counter = if outcome.is_ok() { &self.succeeded } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        self.running.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sends the result, and waits while its channel is full; but not once the shutdown has begun.
    fn hand_over(&self, results: &Sender<PullResult>, result: PullResult) {
        match results.try_send(result) {
            Ok(()) => {}
            Err(TrySendError::Disconnected(result)) => note_receiver_gone(&result),
            Err(TrySendError::Full(result)) => select! {
                send(results, result) -> sent => if let Err(unsent) = sent {
                    note_receiver_gone(&unsent.0);
                },
                recv(self.closing) -> _ => offer(results, result),
            },
        }
    }

    // ---- threads ----

    /// Starts a thread that was [expected](State::expect_thread); it is joined at the shutdown.
    ///
    /// # Errors
    /// `ResourceExhausted`.
    pub(super) fn start_thread(
        self: &Arc<Self>,
        name: String,
        body: impl FnOnce(&Arc<Self>) + Send + 'static,
    ) -> Result<(), Error> {
        let desk = Arc::clone(self);
        let started = thread::Builder::new().name(name).stack_size(self.stack_size).spawn(move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(&desk))) {
                log::error!("a puller's thread ended by a panic of its own: {}", text_of(&*panic));
            }
            desk.note_end(Some(thread::current().id()));
        });
        match started {
            Ok(handle) => {
                let mut state = self.state();
                state.threads.push(handle);
                if state.threads.len() > 2 * state.alive + 8 {
                    state.threads.retain(|thread| !thread.is_finished());
                }
                Ok(())
            }
            Err(error) => {
                self.note_end(None);
                Err(Error::new(ErrorKind::ResourceExhausted, format!("no thread could be started: {error}"))
                    .with_source(error))
            }
        }
    }

    fn note_end(&self, thread: Option<ThreadId>) {
        let mut state = self.state();
        state.alive -= 1;
        state.left_behind.retain(|left| Some(*left) != thread);
        drop(state);
        self.thread_ended.notify_all();
    }

    /// One thread sleeps to the nearest deadline of those that wait.
    fn start_timer(self: &Arc<Self>) {
        let is_needed = {
            let mut state = self.state();
            let is_needed = state.is_open() && !std::mem::replace(&mut state.has_timer, true);
            if is_needed {
                state.expect_thread();
            }
            is_needed
        };
        if is_needed && let Err(error) = self.start_thread("pull-timer".into(), |desk| desk.keep_time()) {
            self.state().has_timer = false;
            log::warn!("deadlines of requests that wait are noticed only when their turn comes: {error}");
        }
    }

    fn keep_time(&self) {
        let mut state = self.state();
        while state.is_open() {
            let expired = state.queue.take_expired(Instant::now());
            if expired.is_empty() {
                match state.queue.nearest_deadline() {
                    Some(deadline) => drop(self.deadline_added.wait_until(&mut state, deadline)),
                    None => self.deadline_added.wait(&mut state),
                }
            } else {
                MutexGuard::unlocked(&mut state, || {
                    for pending in expired {
                        self.refuse(
                            pending,
                            Error::new(ErrorKind::Timeout, "the deadline passed in the queue"),
                        );
                    }
                });
            }
        }
    }

    // ---- ending ----

    /// Takes in nothing more, answers what waits, gives what runs its grace, cancels it, and joins.
    pub(super) fn shutdown(&self, grace: Duration) {
        drop(self.state().open.take());
        self.deadline_added.notify_all();
        self.work_added.notify_all();
        self.refuse_all(&RejectReason::ShutDown.into_error());
        if !self.wait_for_threads(Instant::now().checked_add(grace)) {
            self.stop.cancel();
            self.wait_for_threads(Instant::now().checked_add(LISTENING_TIME));
        }
        self.join_threads();
    }

    /// Whether all threads, but this one should it be ours, ended in time.
    fn wait_for_threads(&self, deadline: Option<Instant>) -> bool {
        let me = thread::current().id();
        let mut state = self.state();
        while !state.have_ended(me) {
            match deadline {
                Some(deadline) => {
                    if self.thread_ended.wait_until(&mut state, deadline).timed_out() {
                        return state.have_ended(me);
                    }
                }
                None => self.thread_ended.wait(&mut state),
            }
        }
        true
    }

    /// Joins the threads that have ended; those that do not listen are left behind, and named.
    fn join_threads(&self) {
        let me = thread::current().id();
        let (ended, deaf) = {
            let mut state = self.state();
            let have_all_ended = state.have_ended(me);
            let threads = std::mem::take(&mut state.threads).into_iter();
            let (ended, deaf): (Vec<_>, Vec<_>) = threads
                .filter(|handle| handle.thread().id() != me)
                .partition(|handle| have_all_ended || handle.is_finished());
            state.left_behind.extend(deaf.iter().map(|handle| handle.thread().id()));
            (ended, deaf)
        };
        for handle in ended {
            let _ = handle.join();
        }
        for handle in deaf {
            let name = handle.thread().name().unwrap_or("a thread");
            log::warn!("{name}: the image service does not listen to its cancel; the thread is left behind");
        }
    }
}

/// Sends a result if there is room, and never waits for it.
fn offer(results: &Sender<PullResult>, result: PullResult) {
    match results.try_send(result) {
        Ok(()) => {}
        Err(TrySendError::Disconnected(result)) => note_receiver_gone(&result),
        Err(TrySendError::Full(result)) => {
            log::warn!("{}: a result found no room in its channel: {}", result.image.image, told(&result));
        }
    }
}

fn note_receiver_gone(result: &PullResult) {
    log::debug!("{}: nobody waits for the result any more: {}", result.image.image, told(result));
}

fn told(result: &PullResult) -> String {
    match &result.outcome {
        Ok(pulled) => format!("pulled {}", pulled.image_ref),
        Err(error) => error.to_string(),
    }
}

fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "the caller cancelled the pull before it began")
}

fn panicked(panic: &(dyn std::any::Any + Send), image: &str) -> Error {
    let error = Error::new(ErrorKind::Panicked, format!("the image service panicked: {}", text_of(panic)))
        .with_image(image);
    log::error!("{error}");
    error
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    const ENOUGH: usize = 200;
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").chars().take(ENOUGH).collect()
}
