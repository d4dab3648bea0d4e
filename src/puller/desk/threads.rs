//! The threads that pull: when one is called to the queue, and how it waits for the next request.

use std::hint;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use super::{Desk, State, text_of};
use crate::error::{Error, ErrorKind};
use crate::puller::queue::Pending;
use crate::service::ImageService;

/// About how long it takes until a thread that sleeps is awake.
const WAKING: Duration = Duration::from_micros(50);

impl<S: ImageService + 'static> Desk<S> {
    /// Calls one more thread to the queue if something waits there, nobody is on the way to it, and a
    /// token is free. Whoever comes and finds more than one request calls the next.
    ///
    /// Tells the number of a thread that is to be started, once the lock is free.
    pub(super) fn call_thread(&self, state: &mut State) -> Option<usize> {
        if state.looking > 0 || state.queue.is_empty() {
            return None;
        }
        if self.work_added.notify_one() {
            state.looking += 1;
            return None;
        }
        if !self.tokens.take() {
            return None;
        }
        state.started += 1;
        state.idle += 1;
        state.looking += 1;
        state.expect_thread();
        Some(state.started)
    }

    /// Starts a thread that was called.
    ///
    /// If that fails, what waits is left to the threads that live; if there are none, it is answered.
    pub(super) fn answer_call(self: &Arc<Self>, call: Option<usize>) {
        let Some(number) = call else { return };
        let started = self.start_thread((self.rules.name)(number), |desk| {
            let first = desk.first();
            (desk.rules.life)(desk, first);
        });
        let Err(error) = started else { return };
        log::warn!("a pull has to wait for another thread: {error}");
        let left_alone: Vec<_> = {
            let mut state = self.state();
            state.looking -= 1;
            state.idle -= 1;
            self.tokens.give_back();
            if self.tokens.are_all_free() { state.queue.drain().collect() } else { Vec::new() }
        };
        for pending in left_alone {
            self.refuse(pending, error.clone());
        }
    }

    /// The request that a new thread begins with.
    fn first(self: &Arc<Self>) -> Option<Pending> {
        let mut state = self.state();
        state.looking -= 1;
        self.take_or_end(state)
    }

    /// The request that a thread goes on with; `None` is its end.
    pub(in crate::puller) fn next(self: &Arc<Self>) -> Option<Pending> {
        let mut state = self.state();
        state.idle += 1;
        self.take_or_end(state)
    }

    /// The request that has waited longest; if there is none, one that comes soon. If none does, gives
    /// the token back.
    ///
    /// All under the queue's lock: whoever finds the queue empty gives the token back before the lock is
    /// free, and whoever asks later finds that token.
    fn take_or_end(self: &Arc<Self>, mut state: MutexGuard<'_, State>) -> Option<Pending> {
        let found = state.queue.take_first().or_else(|| self.look_out(&mut state));
        state.idle -= 1;
        if found.is_none() {
            self.tokens.give_back();
        }
        let let_go = self.let_go(&mut state);
        let call = self.call_thread(&mut state);
        drop(state);
        drop(let_go);
        self.answer_call(call);
        found
    }

    /// Waits for a request: busily for as long as a waking takes, for who sleeps sooner makes the other
    /// side sleep, too; then asleep.
    fn look_out(&self, state: &mut MutexGuard<'_, State>) -> Option<Pending> {
        let mut is_called = true;
        while is_called && state.is_open() {
            state.looking += 1;
            MutexGuard::unlocked(state, || briefly(|| self.waiting.load(Ordering::Relaxed) > 0));
            state.looking -= 1;
            let found = state.queue.take_first();
            if found.is_some() {
                return found;
            }
            is_called = state.is_open() && self.rest(state);
        }
        state.queue.take_first()
    }

    /// Sleeps until this thread is called, or has lingered for long enough.
    fn rest(&self, state: &mut MutexGuard<'_, State>) -> bool {
        // Else the timer would wake for a request that was answered long ago.
        if state.alarm.is_some() && state.queue.nearest_deadline().is_none() {
            self.deadlines_changed.notify_one();
        }
        let is_called = match self.rules.lingering {
            Some(lingering) => !self.work_added.wait_for(state, lingering).timed_out(),
            None => {
                self.work_added.wait(state);
                true
            }
        };
        // Whoever called has counted this thread.
        state.looking -= usize::from(is_called);
        is_called
    }

    /// Waits, as long as a waking takes at most, if there is no room for one more request; until none
    /// waits, for to fill the queue one by one makes both sides wait for each.
    pub(in crate::puller) fn wait_for_room(&self) {
        if self.waiting.load(Ordering::Relaxed) >= self.rules.max_queued {
            briefly(|| self.waiting.load(Ordering::Relaxed) == 0);
        }
    }

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
        let started = thread::Builder::new().name(name).stack_size(self.rules.stack_size).spawn(move || {
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
}

/// Tries for about as long as it takes to wake a thread.
fn briefly(mut is_done: impl FnMut() -> bool) {
    const SPINS: usize = 32;
    for _ in 0..SPINS {
        if is_done() {
            return;
        }
        hint::spin_loop();
    }
    let given_up_at = Instant::now() + WAKING;
    while !is_done() && Instant::now() < given_up_at {
        thread::yield_now();
    }
}
