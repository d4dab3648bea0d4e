//! The manager's threads, the work of each, and how they end.
//!
//! | thread | runs | started |
//! |---|---|---|
//! | `pull-N` | a pull from its turn to its answers; then the next one whose turn has come | with the pull, if the puller is the manager's own |
//! | `manager-N`, 4 | submitted requests up to their pull; the calls of a caller's puller, and its results | with the first such job, one a job |
//! | `manager-clock` | starts the pulls that wait for the throttle, or for an earlier request | by `build` |
//! | `manager-timer` | ends waits at their deadlines; delivers answers whose channels are full | with the first such job |
//!
//! A request that a thread waits for is decided on that thread. A submitted one needs another thread, for its
//! look-up blocks and the caller must not; a worker, for it must not wait behind pulls. A pull begins on a
//! thread of its own also where one waits for it: it is recorded on the disk first, which nothing can
//! interrupt, and the waiting thread must be able to leave at its deadline.
//!
//! # Protocol
//!
//! A job is sent to the workers' channel, then a worker is started while there are fewer than four. A worker
//! stays until the manager ends. So each job has a worker that takes it, unless no thread can be started and
//! there is none: then the thread that found that out refuses all jobs in the channel. Submitted requests
//! enter the channel under the lock of the state, and only while the manager is open; the workers, and last
//! of all the thread that shuts down, empty the channel after it was closed. So none is left without an
//! answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, at, never, select};

use super::inner::{ManagerInner, catch_panic, shut_down};
use super::jobs::{ManagerJob, Submitted, Undecided};
use super::request::{EnsureRequest, EnsureResult};
use super::responder::Responder;
use super::schedule::Rank;
use super::shared_pull::{PullOutcome, SharedPull, WaiterOutcome};
use super::throttle::ThrottleMode;
use crate::context::{CancelToken, PullContext};
use crate::error::{Error, ErrorKind, Phase};
use crate::puller::{ImagePuller, PullResult};
use crate::sync::LISTENING_TIME;

/// Number of `manager-N` threads.
const WORKERS: usize = 4;
/// The stack of each thread, bytes.
pub(super) const STACK_SIZE: usize = 256 * 1024;

// ---- submitted requests ----

impl ManagerInner {
    /// Gives the request its place in the order, and leaves the rest to a worker.
    pub(super) fn submit(
        self: &Arc<Self>,
        cx: PullContext,
        request: EnsureRequest,
        throttle: ThrottleMode,
        results: Sender<EnsureResult>,
    ) {
        let responder = Responder::new(&request, results, &self.timer);
        let asked_at = self.now();
        let context = cx.clone();
        let undecided = {
            let mut in_flight = self.in_flight.lock();
            if !in_flight.is_open {
                drop(in_flight);
                return responder.respond(Err(shut_down().with_image(request.image.image)));
            }
            let (arrival, rank) = in_flight.arrive_submitted(asked_at, request.priority);
            let submitted = Submitted { cx, request, throttle, responder, arrival };
            let undecided = Undecided::new(rank, submitted);
            // It has no bound, and both its ends are here.
            let _ = self.workers.jobs.0.send(ManagerJob::Decide(Arc::clone(&undecided)));
            undecided
        };
        self.ensure_worker();
        if context.cancel_token().is_some() || context.deadline().is_some() {
            let weak = Arc::downgrade(&undecided);
            undecided.attach(self.at_end_of(&context, move |inner, why| {
                if let Some(undecided) = weak.upgrade() {
                    inner.refuse_undecided(&undecided, why);
                }
            }));
        }
    }

    /// Answers a submitted request that no worker has come to.
    fn refuse_undecided(self: &Arc<Self>, undecided: &Undecided, why: Error) {
        if let Some(Submitted { request, responder, .. }) = undecided.take() {
            let why = why.with_image(request.image.image).with_phase(Phase::Queued);
            responder.respond(Err(why));
            self.release(undecided.rank);
        }
    }

    fn ensure_worker(self: &Arc<Self>) {
        let number = {
            let mut started = self.workers.started.lock();
            if *started == WORKERS {
                return;
            }
            *started += 1;
            *started
        };
        let own = Arc::clone(self);
        if let Err(error) = self.threads.spawn(format!("manager-{number}"), move || own.work()) {
            let left = {
                let mut started = self.workers.started.lock();
                *started -= 1;
                *started
            };
            if left == 0 {
                self.refuse_jobs(&no_thread(error));
            }
        }
    }

    fn refuse_jobs(self: &Arc<Self>, error: &Error) {
        while let Ok(job) = self.workers.jobs.1.try_recv() {
            match job {
                ManagerJob::Decide(undecided) => self.refuse_undecided(&undecided, error.clone()),
                ManagerJob::HandOver(pull) => self.end_pull(pull, PullOutcome::never_begun(error.clone())),
            }
        }
    }

    /// Runs a `manager-N` thread.
    fn work(self: &Arc<Self>) {
        loop {
            select! {
                recv(self.workers.jobs.1) -> job => if let Ok(job) = job {
                    self.run(job);
                },
                recv(self.workers.results.1) -> result => if let Ok(result) = result {
                    let PullResult { id, outcome, image_size: size, pull_duration, .. } = result;
                    self.end_pull(id, PullOutcome { outcome, size, pull_duration, began_at: None });
                },
                recv(self.workers.closing()) -> _ => return self.drain(),
            }
        }
    }

    /// Does the jobs that are left.
    fn drain(self: &Arc<Self>) {
        while let Ok(job) = self.workers.jobs.1.try_recv() {
            self.run(job);
        }
    }

    fn run(self: &Arc<Self>, job: ManagerJob) {
        match job {
            ManagerJob::Decide(undecided) => {
                let Some(submitted) = undecided.take() else { return };
                // After a panic the responder has answered.
                let _ = catch_panic("the image manager", || {
                    self.ensure_submitted(submitted);
                    Ok(())
                });
                self.release(undecided.rank);
            }
            ManagerJob::HandOver(pull) => self.hand_over(pull),
        }
    }

    /// Starts the pulls that waited for this request to be decided.
    fn release(self: &Arc<Self>, rank: Rank) {
        let now = self.now();
        let ready = self.in_flight.lock().decided(rank, now);
        self.start(ready);
    }
}

// ---- pulls ----

impl ManagerInner {
    /// Gives each of these pulls a thread, or hands it to the caller's puller. Never blocks.
    pub(super) fn start(self: &Arc<Self>, mut ready: Vec<u64>) {
        while !ready.is_empty() {
            let mut more = Vec::new();
            for pull in ready {
                more.extend(self.start_one(pull));
            }
            ready = more;
        }
        let has_times = self.in_flight.lock().next_starts() != (None, None);
        if has_times {
            // If it is full, the clock's thread is about to look.
            let _ = self.workers.times.0.try_send(());
        }
    }

    /// Returns the pulls to start because this one has failed for want of a thread.
    fn start_one(self: &Arc<Self>, pull: u64) -> Vec<u64> {
        if self.puller.is_some() {
            let _ = self.workers.jobs.0.send(ManagerJob::HandOver(pull));
            self.ensure_worker();
            return Vec::new();
        }
        let number = self.workers.pull_threads.fetch_add(1, Ordering::Relaxed) + 1;
        let own = Arc::clone(self);
        match self.threads.spawn(format!("pull-{number}"), move || own.pull_while_any(pull)) {
            Ok(()) => Vec::new(),
            // Another pull starts it when it ends.
            Err(_) if self.in_flight.lock().put_back(pull) => Vec::new(),
            Err(error) => self.finish(pull, PullOutcome::never_begun(no_thread(error))),
        }
    }

    /// Runs a `pull-N` thread.
    fn pull_while_any(self: &Arc<Self>, mut pull: u64) {
        loop {
            let began = catch_panic("the image manager", || self.begin(pull));
            let outcome = match began {
                Ok((cx, request)) => self.pull(&cx, &request),
                Err(error) => PullOutcome::never_begun(error),
            };
            let mut ready = self.finish(pull, outcome);
            if ready.is_empty() {
                return self.start(ready);
            }
            pull = ready.remove(0);
            self.start(ready);
        }
    }

    /// Hands a pull whose turn has come to the caller's puller.
    fn hand_over(self: &Arc<Self>, pull: u64) {
        let Some(puller) = &self.puller else { return };
        let handed_over = catch_panic("the image manager", || self.begin(pull)).and_then(|(cx, request)| {
            catch_panic("the puller", || {
                puller.pull_image(cx, request, self.workers.results.0.clone());
                Ok(())
            })
        });
        if let Err(error) = handed_over {
            self.end_pull(pull, PullOutcome::never_begun(error));
        }
    }

    fn end_pull(self: &Arc<Self>, pull: u64, outcome: PullOutcome) {
        let ready = self.finish(pull, outcome);
        self.start(ready);
    }

    /// Runs the `manager-clock` thread.
    pub(super) fn run_clock(self: &Arc<Self>) {
        let mut token_alarm: Option<(Instant, Receiver<Instant>)> = None;
        loop {
            let (next_token_at, held_back_until) = self.in_flight.lock().next_starts();
            token_alarm = next_token_at.map(|due| match token_alarm.take() {
                Some(set) if set.0 == due => set,
                _ => (due, self.alarm(due)),
            });
            let token = token_alarm.as_ref().map_or_else(never, |(_, alarm)| alarm.clone());
            select! {
                recv(self.workers.times.1) -> _ => continue,
                recv(token) -> _ => token_alarm = None,
                recv(held_back_until.map_or_else(never, at)) -> _ => {}
                recv(self.workers.closing()) -> _ => return,
            }
            let now = self.now();
            let ready = self.in_flight.lock().start_ready(now);
            self.start(ready);
        }
    }
}

// ---- the end ----

impl ManagerInner {
    /// Takes nothing new, answers the requests whose pulls have not been started, gives those that run their
    /// grace, cancels them, and answers the requests that are left.
    pub(super) fn end(self: &Arc<Self>, grace: Duration) {
        let queued = self.in_flight.lock().close();
        self.dismiss(queued);
        if !self.wait_until_ended(Instant::now().checked_add(grace)) {
            let running = self.in_flight.lock().cancel_tokens();
            running.iter().for_each(CancelToken::cancel);
            self.wait_until_ended(Instant::now().checked_add(LISTENING_TIME));
        }
        let left = self.in_flight.lock().take_all();
        self.dismiss(left);
        self.workers.closing.cancel();
        self.timer.close();
        self.threads.join(LISTENING_TIME);
        // What threads that were left behind did not come to.
        self.drain();
    }

    fn dismiss(self: &Arc<Self>, pulls: Vec<SharedPull>) {
        for waiter in pulls.into_iter().flat_map(|pull| pull.waiters.into_values()) {
            self.notify(waiter, WaiterOutcome::Left(shut_down()));
        }
    }

    fn wait_until_ended(&self, deadline: Option<Instant>) -> bool {
        let mut in_flight = self.in_flight.lock();
        while !in_flight.is_empty() {
            match deadline {
                Some(deadline) => {
                    if self.pull_ended.wait_until(&mut in_flight, deadline).timed_out() {
                        return in_flight.is_empty();
                    }
                }
                None => self.pull_ended.wait(&mut in_flight),
            }
        }
        true
    }
}

pub(super) fn no_thread(error: std::io::Error) -> Error {
    Error::new(ErrorKind::ResourceExhausted, format!("no thread could be started: {error}"))
        .with_source(error)
}
