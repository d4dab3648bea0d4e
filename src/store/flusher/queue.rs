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
/// So many small blobs, or bytes of them, wait for nothing more: they are better written while the
/// next ones come.
const MANY_BLOBS: usize = WAITING_BLOBS / 2;
const MANY_BYTES: u64 = 256 << 10;
/// Changes come seldom when they are farther apart than so many times what one waits.
const SELDOM: u32 = 5;
/// Blobs that are remembered to be durable; what is forgotten is flushed once more.
const REMEMBERED: usize = 50_000;

/// What has gathered.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) large: VecDeque<Verified>,
    small: Vec<Verified>,
    changes: Vec<Change>,
    /// When the last change came, and how long after the one before.
    last_change: Option<(Instant, Duration)>,
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
            Flush::Wait => Patience { change: Duration::from_millis(4), blob: Duration::from_millis(10) },
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
        let before = self.last_change.map(|(came, _)| change.since.saturating_duration_since(came));
        self.last_change = Some((change.since, before.unwrap_or(Duration::MAX)));
        self.changes.push(change);
    }

    pub(super) fn unsettled(&self, digest: &Digest) -> Option<Arc<Awaited>> {
        self.unsettled.get(digest).cloned()
    }

    pub(super) fn is_durable(&self, digest: &Digest, identity: (u64, u64)) -> bool {
        self.durable.get(digest) == Some(&identity)
    }

    /// When the next group goes, while so many `pulls` are in flight: at once when all of them wait
    /// for it, so that one that is alone waits for nobody; and when changes come so seldom that
    /// nobody is likely to join.
    pub(super) fn due(&self, pulls: usize, patience: Patience) -> Due {
        let ready = || self.changes.iter().filter(|change| change.is_ready());
        let change = ready().next().map(|change| change.since + patience.change);
        let blob = self.small.first().map(|blob| blob.since + patience.blob);
        let Some(latest) = change.into_iter().chain(blob).min() else { return Due::Never };
        let is_seldom = self.last_change.is_none_or(|(_, before)| before > patience.change * SELDOM);
        let is_enough = change.is_some() && (is_seldom || ready().count() >= pulls);
        match is_enough || self.is_hurried || self.has_many_blobs() || latest <= Instant::now() {
            true => Due::Now,
            false => Due::At(latest),
        }
    }

    fn has_many_blobs(&self) -> bool {
        let bytes: u64 = self.small.iter().map(|blob| blob.awaited.size).sum();
        self.small.len() >= MANY_BLOBS || bytes >= MANY_BYTES
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

    /// Tells those who wait for the blobs that nothing will come of it, unless they know already.
    pub(super) fn give_up(&mut self, promised: Vec<(Digest, Arc<Awaited>)>, error: &Error) {
        for (digest, awaited) in promised {
            if awaited.outcome.set(Err(error.clone())).is_ok() {
                self.unsettled.remove(&digest);
            }
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
    pub(in crate::store) fn wait(&self) -> Result<(), Error> {
        self.outcome.wait().clone()
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;
    use crate::durable::sim::SimDisk;
    use crate::durable::{Disk, OpenMode};

    fn blob(queue: &mut Queue, name: &str, size: u64) -> Arc<Awaited> {
        let awaited = Awaited::new(size);
        queue.push_blob(Verified {
            digest: Digest::sha256(name.as_bytes()),
            partial: Some(name.to_owned()),
            file: SimDisk::new().open(name, OpenMode::Create).unwrap(),
            identity: (0, 0),
            awaited: awaited.clone(),
            since: Instant::now(),
            _place: Place(bounded(0).0),
        });
        awaited
    }

    fn change(queue: &mut Queue, needs: &[&Arc<Awaited>]) {
        let needs = needs.iter().map(|need| Arc::clone(need)).collect();
        let (edit, since): (Edit, _) = (Box::new(|_| true), Instant::now());
        queue.push_change(Change { needs, edit, answer: bounded(1).0, since });
    }

    /// Long enough that no test sees it pass.
    const PATIENCE: Patience =
        Patience { change: Duration::from_secs(1000), blob: Duration::from_secs(9000) };

    #[test]
    fn a_change_goes_when_all_pulls_in_flight_have_come_and_one_that_is_alone_at_once() {
        for (changes, pulls, goes) in
            [(1, 0, true), (1, 1, true), (2, 3, false), (3, 3, true), (7, 8, false), (9, 8, true)]
        {
            let mut queue = Queue::default();
            (0..changes).for_each(|_| change(&mut queue, &[]));
            assert_eq!(queue.due(pulls, PATIENCE) == Due::Now, goes, "{changes} of {pulls}");
            assert_eq!(queue.due(pulls, Patience::NONE), Due::Now, "{changes} of {pulls}, without patience");
            assert_eq!(queue.take_group().changes.len(), changes);
            assert_eq!(queue.due(pulls, PATIENCE), Due::Never);
        }
    }

    #[test]
    fn a_change_that_comes_long_after_the_last_one_waits_for_no_others() {
        let mut queue = Queue::default();
        change(&mut queue, &[]);
        assert_eq!(queue.due(8, PATIENCE), Due::Now, "the first");
        change(&mut queue, &[]);
        let first = queue.changes[0].since;
        assert_eq!(queue.due(8, PATIENCE), Due::At(first + PATIENCE.change));
        queue.take_group();
        let (came, _) = queue.last_change.unwrap();
        let (edit, since): (Edit, _) = (Box::new(|_| true), came + PATIENCE.change * (SELDOM + 1));
        queue.push_change(Change { needs: vec![], edit, answer: bounded(1).0, since });
        assert_eq!(queue.due(8, PATIENCE), Due::Now);
    }

    #[test]
    fn a_small_blob_waits_for_its_image_s_change_unless_there_are_many_or_somebody_waits_for_it() {
        let mut queue = Queue::default();
        let few = blob(&mut queue, "few", 10_000);
        let since = queue.small[0].since;
        assert_eq!(queue.due(1, PATIENCE), Due::At(since + PATIENCE.blob));
        assert_eq!(queue.due(1, Patience::NONE), Due::Now);
        change(&mut queue, &[&few]);
        assert_eq!(queue.due(1, PATIENCE), Due::Now);
        let group = queue.take_group();
        assert_eq!((group.blobs.len(), group.changes.len()), (1, 1));

        blob(&mut queue, "much", MANY_BYTES);
        assert_eq!(queue.due(1, PATIENCE), Due::Now);
        queue.take_group();
        (0..MANY_BLOBS).for_each(|at| drop(blob(&mut queue, &at.to_string(), 1)));
        assert_eq!(queue.due(1, PATIENCE), Due::Now);
        queue.take_group();
        blob(&mut queue, "hurried", 1);
        queue.is_hurried = true;
        assert_eq!(queue.due(1, PATIENCE), Due::Now);
        queue.take_group();
        assert!(!queue.is_hurried);
    }

    #[test]
    fn a_change_that_needs_a_large_blob_lets_others_go_first() {
        let mut queue = Queue::default();
        let large = blob(&mut queue, "large", LARGE);
        change(&mut queue, &[&large]);
        assert_eq!(queue.due(1, PATIENCE), Due::Never);
        change(&mut queue, &[]);
        assert_eq!(queue.take_group().changes.len(), 1);
        let flushed = queue.large.pop_front().unwrap().closed();
        queue.settle(vec![(flushed, Ok(()))]);
        assert_eq!(queue.due(1, PATIENCE), Due::Now);
        assert_eq!(queue.take_group().changes.len(), 1);
    }
}
