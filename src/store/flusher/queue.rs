//! What waits to be made durable, and when it goes.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::durable::{DiskFile, Flush};
use crate::error::Error;
use crate::image::digest::Digest;
use crate::store::flusher::known::Edit;

/// A blob of this many bytes or more is flushed by itself.
const LARGE: u64 = 1 << 20;
/// Blobs that wait for their flush, each with an open file; who brings more waits.
pub(super) const WAITING_BLOBS: usize = 64;
/// So many small blobs wait for nothing more.
const MANY_BLOBS: usize = WAITING_BLOBS / 2;
/// Blobs that are remembered to be durable; what is forgotten is flushed once more.
const REMEMBERED: usize = 50_000;

/// What has gathered.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) large: VecDeque<Verified>,
    small: Vec<Verified>,
    changes: Vec<Change>,
    /// Blobs that are verified, and not yet under their names.
    unsettled: HashMap<Digest, Arc<Awaited>>,
    /// Blobs that are known to be durable, each by its file's identity.
    durable: HashMap<Digest, (u64, u64)>,
    /// Somebody waits for a small blob by itself.
    pub(super) is_hurried: bool,
    /// Somebody gathers a group, or is at work on one.
    pub(super) is_led: bool,
    /// When whoever gathers will look next, unless woken.
    pub(super) looks_at: Option<Instant>,
    /// How many threads flush large blobs.
    pub(super) flushing_large: usize,
}

/// A blob whose bytes are known to be right, in a file that is not yet durable.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) digest: Digest,
    /// Where it is, if it is not under its name yet.
    pub(super) partial: Option<String>,
    pub(super) file: Box<dyn DiskFile>,
    pub(super) identity: (u64, u64),
    pub(super) awaited: Arc<Awaited>,
    pub(super) since: Instant,
    pub(super) _place: Place,
}

/// A blob whose file was closed.
pub(super) struct Settled {
    pub(super) digest: Digest,
    pub(super) partial: Option<String>,
    identity: (u64, u64),
    awaited: Arc<Awaited>,
}

/// One of the places for blobs that wait; given back when dropped.
#[derive(Debug)]
pub(super) struct Place(pub(super) Sender<()>);

/// A blob that will be durable, or an error.
#[derive(Debug)]
pub(in crate::store) struct Awaited {
    size: u64,
    outcome: OnceLock<Result<(), Error>>,
}

/// A change of the index that waits for its blobs, and who waits for it.
pub(super) struct Change {
    pub(super) needs: Vec<Arc<Awaited>>,
    pub(super) edit: Edit,
    pub(super) answer: Sender<Result<(), Error>>,
    pub(super) since: Instant,
}

/// What is made durable together.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) blobs: Vec<Verified>,
    pub(super) changes: Vec<Change>,
}

/// When the next group goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Now,
    At(Instant),
    /// There is nothing that could.
    Never,
}

/// How long what has come waits for more to share its flushes with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// A change of the index that others may join.
    change: Duration,
    /// A small blob that nobody waits for yet: its image's change is likely to follow.
    blob: Duration,
}

impl Patience {
    pub(super) const NONE: Patience = Patience { change: Duration::ZERO, blob: Duration::ZERO };

    pub(super) fn with(flush: Flush) -> Self {
        match flush {
            Flush::Wait => Patience { change: Duration::from_millis(2), blob: Duration::from_millis(10) },
            Flush::Skip => Patience { change: Duration::from_millis(1), ..Patience::NONE },
        }
    }
}

impl Due {
    pub(super) fn is_before(&self, instant: Instant) -> bool {
        match self {
            Due::Now => true,
            Due::At(at) => *at < instant,
            Due::Never => false,
        }
    }
}

impl Queue {
    pub(super) fn push_blob(&mut self, blob: Verified) {
        self.unsettled.insert(blob.digest.clone(), blob.awaited.clone());
        match blob.awaited.is_large() {
            true => self.large.push_back(blob),
            false => self.small.push(blob),
        }
    }

    pub(super) fn push_change(&mut self, change: Change) {
        self.changes.push(change);
    }

    pub(super) fn unsettled(&self, digest: &Digest) -> Option<Arc<Awaited>> {
        self.unsettled.get(digest).cloned()
    }

    pub(super) fn is_durable(&self, digest: &Digest, identity: (u64, u64)) -> bool {
        self.durable.get(digest) == Some(&identity)
    }

    /// When the next group goes, while so many `pulls` are in flight: at once when half of them wait
    /// for it. The others would only be held up; and a pull that is alone waits for nobody.
    pub(super) fn due(&self, pulls: usize, patience: Patience) -> Due {
        let ready = || self.changes.iter().filter(|change| change.is_ready());
        let change = ready().next().map(|change| change.since + patience.change);
        let blob = self.small.first().map(|blob| blob.since + patience.blob);
        let Some(latest) = change.into_iter().chain(blob).min() else { return Due::Never };
        let is_enough = change.is_some() && ready().count() * 2 >= pulls;
        match is_enough || self.is_hurried || self.small.len() >= MANY_BLOBS || latest <= Instant::now() {
            true => Due::Now,
            false => Due::At(latest),
        }
    }

    /// Takes all that can go.
    pub(super) fn take_group(&mut self) -> Group {
        self.is_hurried = false;
        let changes = std::mem::take(&mut self.changes);
        let (ready, waiting) = changes.into_iter().partition(Change::is_ready);
        self.changes = waiting;
        Group { blobs: std::mem::take(&mut self.small), changes: ready }
    }

    /// Notes what has become of the blobs, and tells those who wait for them.
    pub(super) fn settle(&mut self, settled: Vec<(Settled, Result<(), Error>)>) {
        if self.durable.len() > REMEMBERED {
            self.durable.clear();
        }
        for (blob, outcome) in settled {
            self.unsettled.remove(&blob.digest);
            if outcome.is_ok() {
                self.durable.insert(blob.digest, blob.identity);
            }
            let _ = blob.awaited.outcome.set(outcome);
        }
    }
}

impl Verified {
    pub(super) fn closed(self) -> Settled {
        let Verified { digest, partial, identity, awaited, .. } = self;
        Settled { digest, partial, identity, awaited }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

impl Change {
    /// Whether its blobs have settled, or will with the group that takes it along: that takes all
    /// small ones.
    fn is_ready(&self) -> bool {
        self.needs.iter().all(|need| !need.is_large() || need.is_settled())
    }

    pub(super) fn failed_need(&self) -> Option<Error> {
        self.needs.iter().find_map(|need| need.outcome.get()?.as_ref().err().cloned())
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change").field("needs", &self.needs).finish_non_exhaustive()
    }
}

impl Awaited {
    pub(super) fn new(size: u64) -> Arc<Self> {
        Arc::new(Awaited { size, outcome: OnceLock::new() })
    }

    /// The blob's size, bytes.
    pub(in crate::store) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn is_large(&self) -> bool {
        self.size >= LARGE
    }

    pub(super) fn is_settled(&self) -> bool {
        self.outcome.get().is_some()
    }

    /// Waits until the blob is durable, or will not be.
    pub(super) fn wait(&self) -> Result<(), Error> {
        self.outcome.wait().clone()
    }
}
