//! What both pullers share: where requests are taken in, worked on and answered, and how it all ends.

mod ending;
mod threads;
mod timer;
mod tokens;

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select};
use crossbeam_utils::CachePadded;
use parking_lot::{Condvar, Mutex, MutexGuard};

use self::tokens::Tokens;
use super::queue::{Pending, Queue};
use super::{PullResult, PullerStats, RejectReason};
use crate::context::CancelToken;
use crate::error::{Error, ErrorKind, Phase};
use crate::progress::ProgressEvent;
use crate::service::{ImageService, PulledImage};

/// In what the pullers differ.
pub(super) struct Rules<S: ImageService + 'static> {
    /// Pulls at a time, each on a thread of its own; `None` is no limit.
    pub(super) limit: Option<usize>,
    /// Requests that may wait for a token.
    pub(super) max_queued: usize,
    /// How long a thread that has nothing to do stays; `None` is until the puller ends.
    pub(super) lingering: Option<Duration>,
    /// Bytes.
    pub(super) stack_size: usize,
    /// What the n-th thread is called.
    pub(super) name: fn(usize) -> String,
    /// What a thread does from its first request on.
    pub(super) life: Life<S>,
}

/// Begins with the request that the thread was started for, unless another thread has taken it.
pub(super) type Life<S> = Box<dyn Fn(&Arc<Desk<S>>, Option<Pending>) + Send + Sync>;

pub(super) struct Desk<S: ImageService + 'static> {
    service: S,
    rules: Rules<S>,
    tokens: Tokens,
    state: Mutex<State>,
    /// How many requests wait, to look at without the lock.
    waiting: Arc<CachePadded<AtomicUsize>>,
    thread_ended: Condvar,
    /// For threads that have nothing to do.
    work_added: Condvar,
    deadlines_changed: Condvar,
    /// Disconnected when the shutdown begins.
    closing: Receiver<Infallible>,
    /// Cancels what runs, when the shutdown's grace is over.
    stop: CancelToken,
    counts: CachePadded<Counts>,
}

/// What the stats tell of pulls, apart from what those who ask write to.
#[derive(Default)]
struct Counts {
    running: AtomicUsize,
    succeeded: AtomicU64,
    failed: AtomicU64,
}

struct State {
    queue: Queue,
    /// `None` once the shutdown has begun.
    open: Option<Sender<Infallible>>,
    threads: Vec<JoinHandle<()>>,
    /// Threads that run, and those that are being started.
    alive: usize,
    /// Those of them that an earlier shutdown gave up on.
    left_behind: Vec<ThreadId>,
    has_timer: bool,
    /// When the timer wakes; `None` if it sleeps until it is told.
    alarm: Option<Instant>,
    /// Threads that were ever started for a token.
    started: usize,
    /// Threads that hold a token, or are being started for one, and have no pull.
    idle: usize,
    /// Those of them, again, that are about to look into the queue.
    looking: usize,
}

impl State {
    fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Counts a thread that is about to be started, so that a shutdown waits for it.
    fn expect_thread(&mut self) {
        self.alive += 1;
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
    pub(super) fn new(service: S, rules: Rules<S>) -> Arc<Self> {
        let (open, closing) = bounded(0);
        let queue = Queue::default();
        Arc::new(Desk {
            service,
            tokens: Tokens::new(rules.limit),
            rules,
            waiting: queue.waiting(),
            state: Mutex::new(State {
                queue,
                open: Some(open),
                threads: Vec::new(),
                alive: 0,
                left_behind: Vec::new(),
                has_timer: false,
                alarm: None,
                started: 0,
                idle: 0,
                looking: 0,
            }),
            thread_ended: Condvar::new(),
            work_added: Condvar::new(),
            deadlines_changed: Condvar::new(),
            closing,
            stop: CancelToken::new(),
            counts: CachePadded::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// A channel that is disconnected when the shutdown begins.
    pub(super) fn closing(&self) -> &Receiver<Infallible> {
        &self.closing
    }

    pub(super) fn stats(&self) -> PullerStats {
        let (waiting, room, threads) = {
            let state = self.state();
            (state.queue.len(), self.room(&state), state.alive)
        };
        PullerStats {
            queued: waiting.min(room),
            waiting: waiting.saturating_sub(room),
            running: self.counts.running.load(Ordering::Relaxed),
            succeeded: self.counts.succeeded.load(Ordering::Relaxed),
            failed: self.counts.failed.load(Ordering::Relaxed),
            threads,
        }
    }

    // ---- taking in ----

    /// How many requests there is room for: those that may wait, and those that a token is free for.
    fn room(&self, state: &State) -> usize {
        self.rules.max_queued.saturating_add(self.tokens.free()).saturating_add(state.idle)
    }

    /// Puts the request into the queue, and sees to it that a thread comes for it. One whose caller
    /// stands comes in also if there is no room. Tells the number by which it can be taken.
    pub(super) fn enter(self: &Arc<Self>, mut pending: Pending) -> Result<u64, Box<(Pending, RejectReason)>> {
        let token = pending.cx.cancel_token().cloned();
        let deadline = pending.cx.deadline();
        let (number, call) = {
            let mut state = self.state();
            if !state.is_open() {
                return Err(Box::new((pending, RejectReason::ShutDown)));
            }
            if state.queue.len() < self.room(&state) {
                pending.standing = None;
            } else if pending.standing.is_none() {
                return Err(Box::new((pending, RejectReason::Full)));
            }
            let number = state.queue.push(pending);
            (number, self.call_thread(&mut state))
        };
        if token.is_some() || deadline.is_some() {
            self.watch(number, token.as_ref(), deadline);
        }
        self.answer_call(call);
        Ok(number)
    }

    /// Takes the request out of the queue, and lets the caller go whose request has room now.
    fn take(&self, number: u64) -> Option<Pending> {
        let (pending, let_go) = {
            let mut state = self.state();
            let pending = state.queue.take(number);
            (pending, self.let_go(&mut state))
        };
        drop(let_go);
        pending
    }

    /// The last request that there is room for: its caller need not stand any more.
    fn let_go(&self, state: &mut State) -> Option<Sender<Infallible>> {
        let room = self.room(state);
        state.queue.let_go(room.checked_sub(1)?)
    }

    /// Sees to it that a request that waits is taken out by its cancel and by its deadline.
    ///
    /// The hook goes in after the request, for it may run at once.
    fn watch(self: &Arc<Self>, number: u64, token: Option<&CancelToken>, deadline: Option<Instant>) {
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
        if let Some(deadline) = deadline {
            self.start_timer();
            if self.state().alarm.is_none_or(|alarm| deadline < alarm) {
                self.deadlines_changed.notify_one();
            }
        }
    }

    /// Takes the request out of the queue and answers it with `error`; nothing if it has left already.
    pub(super) fn refuse_queued(&self, number: u64, error: Error) {
        if let Some(pending) = self.take(number) {
            self.refuse(pending, error);
        }
    }

    /// Answers every request in the queue with `error`.
    fn refuse_all(&self, error: &Error) {
        let waiting = self.state().queue.drain();
        for pending in waiting {
            self.refuse(pending, error.clone());
        }
    }

    /// Answers a request that no pull was begun for. The thread may be anyone's, so the result is only
    /// offered.
    pub(super) fn refuse(&self, pending: Pending, error: Error) {
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        let Pending { request, results, asked_at, .. } = pending;
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
        let Pending { cx, request, results, asked_at, hook, standing } = pending;
        drop((hook, standing));
        self.counts.running.fetch_add(1, Ordering::Relaxed);
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
        let counter = if outcome.is_ok() { &self.counts.succeeded } else { &self.counts.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        self.counts.running.fetch_sub(1, Ordering::Relaxed);
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
