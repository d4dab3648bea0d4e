//! Work for the manager's threads, and the channels that carry it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::Mutex;

use super::request::EnsureRequest;
use super::responder::Responder;
use super::schedule::Rank;
use super::shared_pull::{Arrival, Ends};
use super::throttle::ThrottleMode;
use crate::context::{CancelToken, PullContext};
use crate::puller::PullResult;

/// The channels of the manager's threads.
pub(super) struct Workers {
    pub(super) jobs: (Sender<ManagerJob>, Receiver<ManagerJob>),
    /// Results of a caller's puller.
    pub(super) results: (Sender<PullResult>, Receiver<PullResult>),
    /// Wakes `manager-clock` when its times have changed.
    pub(super) times: (Sender<()>, Receiver<()>),
    /// Cancelled at the end.
    pub(super) closing: CancelToken,
    pub(super) started: Mutex<usize>,
    /// Number of `pull-N` threads ever started, for their names.
    pub(super) pull_threads: AtomicUsize,
}

pub(super) enum ManagerJob {
    Decide(Arc<Undecided>),
    /// Hands a pull whose turn has come to the caller's puller.
    HandOver(u64),
}

/// A submitted request in the channel. The first of four takes it out and owes the answer: a worker, its
/// cancel, its deadline, and the thread that refuses all jobs.
pub(super) struct Undecided {
    pub(super) rank: Rank,
    request: Mutex<Option<(Submitted, Option<Ends>)>>,
}

impl Undecided {
    pub(super) fn new(rank: Rank, submitted: Submitted) -> Arc<Self> {
        Arc::new(Undecided { rank, request: Mutex::new(Some((submitted, None))) })
    }

    pub(super) fn take(&self) -> Option<Submitted> {
        let (submitted, ends) = self.request.lock().take()?;
        drop(ends);
        Some(submitted)
    }

    /// Keeps the hook and the alarm that end the wait until the request is taken out.
    pub(super) fn attach(&self, ends: Ends) {
        let unneeded = match &mut *self.request.lock() {
            Some((_, own)) => own.replace(ends),
            None => Some(ends),
        };
        drop(unneeded);
    }
}

/// A submitted request, and the way to answer it.
pub(super) struct Submitted {
    pub(super) cx: PullContext,
    pub(super) request: EnsureRequest,
    pub(super) throttle: ThrottleMode,
    pub(super) responder: Responder,
    pub(super) arrival: Arrival,
}

impl Workers {
    pub(super) fn new() -> Self {
        Workers {
            jobs: unbounded(),
            results: unbounded(),
            times: bounded(1),
            closing: CancelToken::new(),
            started: Mutex::new(0),
            pull_threads: AtomicUsize::new(0),
        }
    }

    pub(super) fn closing(&self) -> &Receiver<Infallible> {
        self.closing.cancelled()
    }
}
