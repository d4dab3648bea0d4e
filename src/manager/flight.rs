//! One pull for many askers.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use parking_lot::Mutex;

use super::Throttle;
use super::backoff::Key;
use super::records::Begun;
use super::reply::Reply;
use super::request::EnsureRequest;
use super::schedule::Rank;
use super::secrets::SecretsHash;
use crate::context::{CancelHook, CancelToken, PullContext};
use crate::error::Error;
use crate::image::reference::Reference;
use crate::progress::ProgressEvent;
use crate::service::{ImageRef, ImageSpec, PullRequest, PulledImage};

/// A request that was read: what stays the same on all its way.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) request: EnsureRequest,
    /// With its tag, also where that was not typed.
    pub(super) image: ImageSpec,
    pub(super) reference: Reference,
    pub(super) credentials: SecretsHash,
    pub(super) back_off_key: Arc<Key>,
    pub(super) asked_at: Instant,
    /// What to do when the throttle has no token.
    pub(super) throttle: Throttle,
    /// How many pulls had landed before it looked at what is there.
    pub(super) landings_before: u64,
}

impl Ask {
    /// The image as messages name it.
    pub(super) fn typed(&self) -> &str {
        &self.request.image.image
    }

    pub(super) fn flight_key(&self) -> FlightKey {
        FlightKey { image: self.image.clone(), credentials: self.credentials.clone() }
    }
}

/// Whose pulls are one: the same image for the same handler, with the same credentials.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct FlightKey {
    image: ImageSpec,
    credentials: SecretsHash,
}

/// A pull, from the first who asks for it to its end.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) key: Arc<FlightKey>,
    pub(super) registry: Arc<str>,
    pub(super) rank: Rank,
    pub(super) stage: Stage,
    /// Its token of the throttle is to be taken when it starts.
    pub(super) needs_token: bool,
    /// Whether others went before it, or landed since its first asker looked: what is there may have
    /// changed meanwhile.
    pub(super) has_waited: bool,
    pub(super) asked_at: Instant,
    pub(super) request: PullRequest,
    pub(super) reference: Reference,
    pub(super) begun: Option<Begun>,
    /// Cancelled when the last asker has gone.
    pub(super) cancel: CancelToken,
    pub(super) audience: Arc<Audience>,
    pub(super) seats: BTreeMap<u64, Seat>,
}

impl Flight {
    /// When the puller began.
    pub(super) fn began_at(&self) -> Option<Instant> {
        match self.stage {
            Stage::Pulling(began_at) => Some(began_at),
            Stage::Queued | Stage::Handed => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waits for its turn.
    Queued,
    /// Its turn has come; it is at the puller, or on the way there.
    Handed,
    /// The puller has begun.
    Pulling(Instant),
}

/// The place of one asker in a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket {
    pub(super) flight: u64,
    pub(super) seat: u64,
}

/// One asker in a flight.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) ask: Arc<Ask>,
    pub(super) cx: PullContext,
    pub(super) waker: Waker,
    pub(super) is_first: bool,
    /// Makes it leave on a cancel, if no thread waits that could.
    pub(super) hook: Option<CancelHook>,
}

/// How an asker learns the news.
pub(super) enum Waker {
    /// A thread waits for them.
    Thread(Sender<News>),
    /// Nobody waits; the manager itself goes on.
    Reply(Reply),
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Waker::Thread(_) => "Thread",
            Waker::Reply(_) => "Reply",
        })
    }
}

/// How it goes on for an asker.
#[derive(Clone, Debug)]
pub(super) enum News {
    /// The pull ended.
    Landed { landing: Arc<Landing>, is_first: bool },
    /// When its turn came, the image was there.
    Present(ImageRef),
    /// The asker has left.
    Left(Error),
}

/// How a pull ended.
#[derive(Debug)]
pub(super) struct Landing {
    pub(super) outcome: Result<PulledImage, Error>,
    pub(super) size: Option<u64>,
    pub(super) pull_duration: Duration,
    /// When the puller began; `None` if it never did.
    pub(super) began_at: Option<Instant>,
}

/// Who watches a pull.
#[derive(Debug, Default)]
pub(super) struct Audience(Mutex<Watchers>);

#[derive(Debug, Default)]
struct Watchers {
    by_seat: BTreeMap<u64, PullContext>,
    /// The same as a list that can be told without the lock; made anew when it is needed.
    list: Option<Arc<[PullContext]>>,
}

impl Audience {
    pub(super) fn add(&self, seat: u64, cx: &PullContext) {
        if cx.is_watched() {
            let mut watchers = self.0.lock();
            watchers.by_seat.insert(seat, cx.clone());
            watchers.list = None;
        }
    }

    /// Who left is told no more.
    pub(super) fn remove(&self, seat: u64) {
        let left = {
            let mut watchers = self.0.lock();
            let left = watchers.by_seat.remove(&seat);
            (left.is_some().then(|| watchers.list.take()), left)
        };
        drop(left);
    }

    pub(super) fn tell(&self, event: &ProgressEvent<'_>) {
        let list = {
            let mut watchers = self.0.lock();
            let Watchers { by_seat, list } = &mut *watchers;
            Arc::clone(list.get_or_insert_with(|| by_seat.values().cloned().collect()))
        };
        for cx in &*list {
            report(cx, event);
        }
    }
}

/// Tells one asker's watcher; its panic is not the pull's, which others wait for, too.
pub(super) fn report(cx: &PullContext, event: &ProgressEvent<'_>) {
    if catch_unwind(AssertUnwindSafe(|| cx.report(event))).is_err() {
        log::error!("who watches a pull panicked");
    }
}
