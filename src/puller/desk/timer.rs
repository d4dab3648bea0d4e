//! The thread that answers requests whose deadline passes while they wait.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::MutexGuard;

use super::Desk;
use crate::error::{Error, ErrorKind};
use crate::service::ImageService;

impl<S: ImageService + 'static> Desk<S> {
    /// One thread sleeps to the nearest deadline of those that wait.
    pub(super) fn start_timer(self: &Arc<Self>) {
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
            let expired = state.queue.expired(Instant::now());
            if expired.is_empty() {
                state.alarm = state.queue.nearest_deadline();
                match state.alarm {
                    Some(deadline) => drop(self.deadlines_changed.wait_until(&mut state, deadline)),
                    None => self.deadlines_changed.wait(&mut state),
                }
            } else {
                MutexGuard::unlocked(&mut state, || {
                    for number in expired {
                        let error = Error::new(ErrorKind::Timeout, "the deadline passed in the queue");
                        self.refuse_queued(number, error);
                    }
                });
            }
        }
    }
}
