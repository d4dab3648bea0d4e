//! A waiting request, which exactly one thread answers.
//!
//! # States
//!
//! A queued request is *waiting* or *claimed*. Four can claim it: the thread that pops it from the queue,
//! its cancel, its deadline, and the shutdown. All take it out of the same `Option` under its lock, so the
//! first of them owes the one result, and the others find nothing. The entry in the queue stays until it
//! is popped; it is a few words without its request.
//!
//! The hook of the cancel and the alarm of the deadline are attached after the request is in the queue. If
//! it was claimed meanwhile, they are dropped at once. They are dropped outside of the lock: what they own
//! may call back into the token.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Sender;
use parking_lot::{Mutex, RwLock};

use super::result::PullResult;
use crate::context::{CancelHook, CancelToken, PullContext};
use crate::service::PullRequest;
use crate::sync::Alarm;

/// The end of a queue that requests are sent into, until it is closed.
///
/// A closed queue is disconnected as soon as the last caller that sends into it has come back, so its
/// readers find the end of it, as they do of a channel that is closed in Go.
pub(super) struct Requests(RwLock<Option<Sender<Queued>>>);

impl Requests {
    pub(super) fn new(requests: Sender<Queued>) -> Self {
        Requests(RwLock::new(Some(requests)))
    }

    /// Returns the sending end; `None` once it is closed.
    pub(super) fn sender(&self) -> Option<Sender<Queued>> {
        self.0.read().clone()
    }

    pub(super) fn close(&self) {
        let last = self.0.write().take();
        drop(last);
    }
}

/// A request, and all that is needed to answer it.
pub(super) struct Pending {
    pub(super) cx: PullContext,
    pub(super) request: PullRequest,
    pub(super) results: Sender<PullResult>,
    pub(super) asked_at: Instant,
}

/// A [`Pending`] request in a queue. A clone is the same entry.
#[derive(Clone)]
pub(super) struct Queued(Arc<QueueEntry>);

type QueueEntry = Mutex<Option<Box<Waiting>>>;

struct Waiting {
    pending: Pending,
    hook: Option<CancelHook>,
    alarm: Option<Alarm<PullResult>>,
}

impl Pending {
    pub(super) fn new(cx: PullContext, request: PullRequest, results: Sender<PullResult>) -> Self {
        Pending { cx, request, results, asked_at: Instant::now() }
    }
}

impl Queued {
    pub(super) fn new(pending: Pending) -> Self {
        Queued(Arc::new(Mutex::new(Some(Box::new(Waiting { pending, hook: None, alarm: None })))))
    }

    /// Takes the request out; `None` if another was faster. The caller owes the result.
    pub(super) fn claim(&self) -> Option<Pending> {
        let claimed = self.0.lock().take();
        claimed.map(|waiting| {
            let Waiting { pending, hook, alarm } = *waiting;
            drop((hook, alarm));
            pending
        })
    }

    /// Returns the hook and the alarm that end the waiting request. `None` if it is claimed.
    pub(super) fn ends(&self) -> Option<(Option<CancelToken>, Option<Instant>)> {
        let entry = self.0.lock();
        let cx = &entry.as_ref()?.pending.cx;
        Some((cx.cancel_token().cloned(), cx.deadline()))
    }

    /// Keeps the hook and the alarm until the request is claimed.
    pub(super) fn attach(&self, hook: Option<CancelHook>, alarm: Option<Alarm<PullResult>>) {
        let unneeded = match &mut *self.0.lock() {
            Some(waiting) => {
                (waiting.hook, waiting.alarm) = (hook, alarm);
                None
            }
            None => Some((hook, alarm)),
        };
        drop(unneeded);
    }

    /// Returns a claim on the request that does not keep its entry.
    pub(super) fn weak_claim(&self) -> impl FnOnce() -> Option<Pending> + Send + use<> {
        let entry = Arc::downgrade(&self.0);
        move || Queued(entry.upgrade()?).claim()
    }
}
