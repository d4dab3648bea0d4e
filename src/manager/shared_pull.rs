//! One pull for all requests that need it.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use parking_lot::Mutex;

use super::backoff::BackOffKey;
use super::credential_hash::SecretsHash;
use super::records::PullRecord;
use super::request::{EnsureRequest, EnsureResult};
use super::responder::Responder;
use super::schedule::Rank;
use super::throttle::ThrottleMode;
use crate::context::{CancelHook, CancelToken, PullContext};
use crate::error::Error;
use crate::image::reference::Reference;
use crate::progress::ProgressEvent;
use crate::service::{ImageRef, ImageSpec, PullRequest, PulledImage};
use crate::sync::Alarm;

/// When a request arrived. It orders requests, and their waits are measured from it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) asked_at: Instant,
    /// Unique within the manager, and increasing.
    pub(super) number: u64,
}

/// A request after its checks.
#[derive(Debug)]
pub(super) struct ParsedRequest {
    pub(super) request: EnsureRequest,
    /// The image with its tag, also where the request has none.
    pub(super) image: ImageSpec,
    pub(super) reference: Reference,
    pub(super) credentials: SecretsHash,
    pub(super) back_off_key: Arc<BackOffKey>,
    pub(super) arrival: Arrival,
    /// What to do when the throttle has no token.
    pub(super) throttle: ThrottleMode,
    /// Number of pulls that had ended before the request looked for the image.
    pub(super) pulls_ended_before: u64,
}

impl ParsedRequest {
    /// The image as messages name it.
    pub(super) fn typed(&self) -> &str {
        &self.request.image.image
    }

    pub(super) fn pull_key(&self) -> PullKey {
        PullKey { image: self.image.clone(), credentials: self.credentials.clone() }
    }
}

/// Requests with equal keys share a pull: the same image for the same handler, with the same credentials.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct PullKey {
    image: ImageSpec,
    credentials: SecretsHash,
}

/// A pull, from its first request to its end.
#[derive(Debug)]
pub(super) struct SharedPull {
    pub(super) key: Arc<PullKey>,
    pub(super) registry: Arc<str>,
    pub(super) rank: Rank,
    pub(super) stage: PullStage,
    /// Whether the pull takes its token of the throttle when it starts.
    pub(super) needs_token: bool,
    /// Whether another pull went first, or ended since the first request looked for the image: the image may
    /// have come meanwhile.
    pub(super) has_waited: bool,
    pub(super) asked_at: Instant,
    pub(super) request: PullRequest,
    pub(super) reference: Reference,
    pub(super) record: Option<PullRecord>,
    /// Cancelled when the last waiter has left.
    pub(super) cancel: CancelToken,
    pub(super) progress: Arc<ProgressFanout>,
    pub(super) waiters: BTreeMap<u64, Waiter>,
}

impl SharedPull {
    /// Returns when the puller began, if it has.
    pub(super) fn began_at(&self) -> Option<Instant> {
        match self.stage {
            PullStage::Pulling(began_at) => Some(began_at),
            PullStage::Queued | PullStage::Started => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PullStage {
    /// Waits for its turn.
    Queued,
    /// Its turn has come; the image service is not called yet.
    Started,
    /// The image service is called.
    Pulling(Instant),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WaiterId {
    pub(super) pull: u64,
    pub(super) waiter: u64,
}

/// One request that waits for a pull.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) request: Arc<ParsedRequest>,
    pub(super) cx: PullContext,
    pub(super) notify: Notify,
    /// Whether the pull was begun for this request.
    pub(super) is_first: bool,
    /// Removes the waiter on a cancel and at the deadline, if no thread waits that could.
    pub(super) ends: Option<Ends>,
}

/// Ends a wait on a cancel and at a deadline. Dropped without a lock: they may own code of the caller's.
pub(super) type Ends = (Option<CancelHook>, Option<Alarm<EnsureResult>>);

/// How a waiter gets its outcome.
pub(super) enum Notify {
    /// A thread waits for it.
    Thread(Sender<WaiterOutcome>),
    /// The request was submitted: the thread that has the outcome makes the answer of it.
    Responder(Responder),
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Notify::Thread(_) => "Thread",
            Notify::Responder(_) => "Responder",
        })
    }
}

/// What ends a waiter's wait.
#[derive(Clone, Debug)]
pub(super) enum WaiterOutcome {
    /// The pull ended.
    Pulled { pull: Arc<PullOutcome>, is_first: bool },
    /// The image was there when the pull's turn came.
    Present(ImageRef),
    /// The waiter left, or the manager was shut down.
    Left(Error),
}

/// How a pull ended.
#[derive(Debug)]
pub(super) struct PullOutcome {
    pub(super) outcome: Result<PulledImage, Error>,
    pub(super) size: Option<u64>,
    pub(super) pull_duration: Duration,
    /// When the image service was called; `None` if it was not.
    pub(super) began_at: Option<Instant>,
}

impl PullOutcome {
    /// The outcome of a pull for which the image service was not called.
    pub(super) fn never_begun(error: Error) -> Self {
        PullOutcome { outcome: Err(error), size: None, pull_duration: Duration::ZERO, began_at: None }
    }
}

/// Passes a pull's progress on to all of its waiters.
#[derive(Debug, Default)]
pub(super) struct ProgressFanout(Mutex<Watchers>);

#[derive(Debug, Default)]
struct Watchers {
    by_waiter: BTreeMap<u64, PullContext>,
    /// The same as a list that is read without the lock; `None` after a change.
    list: Option<Arc<[PullContext]>>,
}

impl ProgressFanout {
    pub(super) fn add(&self, waiter: u64, cx: &PullContext) {
        if cx.is_watched() {
            let mut watchers = self.0.lock();
            watchers.by_waiter.insert(waiter, cx.clone());
            watchers.list = None;
        }
    }

    pub(super) fn remove(&self, waiter: u64) {
        let removed = {
            let mut watchers = self.0.lock();
            let removed = watchers.by_waiter.remove(&waiter);
            (removed.is_some().then(|| watchers.list.take()), removed)
        };
        // A context owns code of the caller's: it is dropped without the lock.
        drop(removed);
    }

    pub(super) fn report(&self, event: &ProgressEvent) {
        let list = {
            let mut watchers = self.0.lock();
            let Watchers { by_waiter, list } = &mut *watchers;
            Arc::clone(list.get_or_insert_with(|| by_waiter.values().cloned().collect()))
        };
        for cx in &*list {
            report(cx, event);
        }
    }
}

/// Reports to the progress of one request. Its panic does not end the pull, which others may share.
pub(super) fn report(cx: &PullContext, event: &ProgressEvent) {
    if catch_unwind(AssertUnwindSafe(|| cx.report(event))).is_err() {
        log::error!("the progress of a request panicked");
    }
}
