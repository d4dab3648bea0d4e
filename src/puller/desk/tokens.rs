//! How many pulls may run at a time.

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

/// A counting channel, as in Kubernetes: what is sent into it is a token that is taken, and to receive
/// gives one back. All under the queue's lock.
pub(super) struct Tokens {
    taken: Sender<()>,
    given_back: Receiver<()>,
}

impl Tokens {
    /// `None` is no limit.
    pub(super) fn new(limit: Option<usize>) -> Self {
        let (taken, given_back) = limit.map_or_else(unbounded, bounded);
        Tokens { taken, given_back }
    }

    /// Takes a token, if one is free.
    pub(super) fn take(&self) -> bool {
        self.taken.try_send(()).is_ok()
    }

    pub(super) fn give_back(&self) {
        let _ = self.given_back.try_recv();
    }

    pub(super) fn free(&self) -> usize {
        self.taken.capacity().map_or(usize::MAX, |limit| limit.saturating_sub(self.taken.len()))
    }

    pub(super) fn are_all_free(&self) -> bool {
        self.taken.is_empty()
    }
}
