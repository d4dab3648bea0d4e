//! How a puller ends.

use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use super::{Desk, State};
use crate::puller::RejectReason;
use crate::service::ImageService;

/// How long a cancelled pull may take to end before its thread is left behind.
const LISTENING_TIME: Duration = Duration::from_millis(900);

impl State {
    /// Whether all threads have ended, but those left behind and the one that asks.
    fn have_ended(&self, me: ThreadId) -> bool {
        let mine = usize::from(self.threads.iter().any(|handle| handle.thread().id() == me));
        self.alive <= self.left_behind.len() + mine
    }
}

impl<S: ImageService + 'static> Desk<S> {
    /// Takes in nothing more, answers what waits, gives what runs its grace, cancels it, and joins.
    pub(in crate::puller) fn shutdown(&self, grace: Duration) {
        {
            let mut state = self.state();
            drop(state.open.take());
            state.looking += self.work_added.notify_all();
        }
        self.deadlines_changed.notify_all();
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
