//! The blobs and changes that wait for a commit.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::context::PullContext;
use crate::durable::DiskFile;
use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;
use crate::store::index::StoreIndex;
use crate::store::lease::Lease;
use crate::sync::Permit;

/// Size from which a blob is committed by itself, bytes.
const LARGE: u64 = 1 << 20;
/// Number of blobs that are remembered to be durable. A forgotten one is flushed once more.
const REMEMBERED: usize = 50_000;

/// Changes the index, and returns whether it did.
pub(super) type Edit = Box<dyn FnOnce(&mut StoreIndex) -> bool + Send>;

/// Blobs and changes that are not committed yet.
#[derive(Debug, Default)]
pub(super) struct Uncommitted {
    small: Vec<VerifiedBlob>,
    large: VecDeque<VerifiedBlob>,
    changes: Vec<IndexChange>,
    /// Blobs that are verified and do not have their names yet.
    pending: HashMap<Digest, Arc<PendingCommit>>,
    /// Blobs that are known to be durable, each with the identity of its file.
    durable: HashMap<Digest, (u64, u64)>,
    has_leader: bool,
}

/// A blob whose bytes match its digest, in a file that is not durable yet.
#[derive(Debug)]
pub(super) struct VerifiedBlob {
    pub(super) digest: Digest,
    /// The file's path, unless it already has the blob's name.
    pub(super) partial: Option<String>,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) identity: (u64, u64),
    pub(super) pending: Arc<PendingCommit>,
    /// Bounds the number of files that are open here; returned when dropped.
    pub(super) _permit: Option<Permit>,
}

/// A blob after its commit, its file closed.
pub(super) struct CommittedBlob {
    pub(super) digest: Digest,
    pub(super) partial: Option<String>,
    identity: (u64, u64),
    pending: Arc<PendingCommit>,
}

/// The outcome of a blob's commit, once there is one.
#[derive(Debug)]
pub(in crate::store) struct PendingCommit {
    size: u64,
    outcome: OnceLock<Result<(), Error>>,
    /// Disconnected when there is an outcome.
    done: Receiver<Infallible>,
    disconnect: Mutex<Option<Sender<Infallible>>>,
}

/// A change of the index, to be made when its blobs are committed.
pub(super) struct IndexChange {
    pub(super) needs: Vec<Arc<PendingCommit>>,
    pub(super) edit: Edit,
    /// Holds the blobs until the change is made, also if its caller leaves.
    pub(super) lease: Option<Arc<Lease>>,
    pub(super) reply: Sender<Result<(), Error>>,
}

/// Small blobs and changes that are committed together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) blobs: Vec<VerifiedBlob>,
    pub(super) changes: Vec<IndexChange>,
}

impl Uncommitted {
    pub(super) fn push_blob(&mut self, blob: VerifiedBlob) {
        self.pending.insert(blob.digest.clone(), blob.pending.clone());
        match blob.pending.is_large() {
            true => self.large.push_back(blob),
            false => self.small.push(blob),
        }
    }

    pub(super) fn push_change(&mut self, change: IndexChange) {
        self.changes.push(change);
    }

    pub(super) fn pending(&self, digest: &Digest) -> Option<Arc<PendingCommit>> {
        self.pending.get(digest).cloned()
    }

    pub(super) fn is_durable(&self, digest: &Digest, identity: (u64, u64)) -> bool {
        self.durable.get(digest) == Some(&identity)
    }

    /// Returns whether a leader is needed: something is ready, and there is none. The caller leads then.
    pub(super) fn appoint_leader(&mut self) -> bool {
        let is_needed = !self.has_leader && self.is_ready();
        self.has_leader |= is_needed;
        is_needed
    }

    /// Returns whether a batch would hold anything.
    pub(super) fn is_ready(&self) -> bool {
        !self.small.is_empty() || self.changes.iter().any(IndexChange::is_ready)
    }

    /// Takes all that is ready, for the leader; `None` ends its leadership.
    pub(super) fn take_batch(&mut self) -> Option<Batch> {
        if !self.is_ready() {
            self.has_leader = false;
            return None;
        }
        let changes = std::mem::take(&mut self.changes);
        let (ready, waiting) = changes.into_iter().partition(IndexChange::is_ready);
        self.changes = waiting;
        Some(Batch { blobs: std::mem::take(&mut self.small), changes: ready })
    }

    pub(super) fn take_large(&mut self) -> Option<Batch> {
        let blob = self.large.pop_front()?;
        Some(Batch { blobs: vec![blob], changes: Vec::new() })
    }

    /// Records the outcomes of a commit, and wakes the threads that wait for them.
    pub(super) fn complete(&mut self, committed: Vec<(CommittedBlob, Result<(), Error>)>) {
        if self.durable.len() > REMEMBERED {
            self.durable.clear();
        }
        for (blob, outcome) in committed {
            self.pending.remove(&blob.digest);
            if outcome.is_ok() {
                self.durable.insert(blob.digest, blob.identity);
            }
            blob.pending.complete(outcome);
        }
    }

    /// Fails those of the blobs that have no outcome yet.
    pub(super) fn fail(&mut self, blobs: Vec<(Digest, Arc<PendingCommit>)>, error: &Error) {
        for (digest, pending) in blobs {
            if pending.complete(Err(error.clone())) {
                self.pending.remove(&digest);
            }
        }
    }
}

impl VerifiedBlob {
    /// Closes the file.
    pub(super) fn close(self) -> CommittedBlob {
        let VerifiedBlob { digest, partial, identity, pending, .. } = self;
        CommittedBlob { digest, partial, identity, pending }
    }
}

impl IndexChange {
    /// Returns whether the next batch may hold it: that takes all small blobs along.
    fn is_ready(&self) -> bool {
        self.needs.iter().all(|need| !need.is_large() || need.outcome.get().is_some())
    }

    /// The error of a blob that it needs and that could not be committed.
    pub(super) fn failed_need(&self) -> Option<Error> {
        self.needs.iter().find_map(|need| need.outcome.get()?.as_ref().err().cloned())
    }
}

impl fmt::Debug for IndexChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IndexChange").field("needs", &self.needs).finish_non_exhaustive()
    }
}

impl PendingCommit {
    pub(super) fn new(size: u64) -> Arc<Self> {
        let (disconnect, done) = bounded(0);
        let disconnect = Mutex::new(Some(disconnect));
        Arc::new(PendingCommit { size, outcome: OnceLock::new(), done, disconnect })
    }

    /// The blob's size, bytes.
    pub(in crate::store) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn is_large(&self) -> bool {
        self.size >= LARGE
    }

    /// Sets the outcome unless there is one; returns whether it did.
    fn complete(&self, outcome: Result<(), Error>) -> bool {
        let is_first = self.outcome.set(outcome).is_ok();
        drop(self.disconnect.lock().take());
        is_first
    }

    /// Waits until the blob is durable and has its name.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout`; the error of the commit: `Store`, `DiskFull`, `Panicked`.
    pub(in crate::store) fn wait_durable(&self, cx: &PullContext) -> Result<(), Error> {
        if self.outcome.get().is_none() {
            cx.wait_for(&self.done)?;
        }
        self.outcome.get().cloned().unwrap_or_else(|| {
            Err(Error::new(ErrorKind::Panicked, "the thread that committed the blob panicked"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::sim::SimDisk;
    use crate::durable::{Disk, OpenMode};

    fn push_blob(uncommitted: &mut Uncommitted, name: &str, size: u64) -> Arc<PendingCommit> {
        let pending = PendingCommit::new(size);
        uncommitted.push_blob(VerifiedBlob {
            digest: Digest::sha256(name.as_bytes()),
            partial: Some(name.to_owned()),
            file: SimDisk::new().open(name, OpenMode::Create).unwrap().into(),
            identity: (0, 0),
            pending: pending.clone(),
            _permit: None,
        });
        pending
    }

    fn push_change(uncommitted: &mut Uncommitted, needs: &[&Arc<PendingCommit>]) {
        let needs = needs.iter().map(|need| Arc::clone(need)).collect();
        uncommitted.push_change(IndexChange {
            needs,
            edit: Box::new(|_| true),
            lease: None,
            reply: bounded(1).0,
        });
    }

    fn take(uncommitted: &mut Uncommitted) -> Option<(usize, usize)> {
        uncommitted.take_batch().map(|batch| (batch.blobs.len(), batch.changes.len()))
    }

    #[test]
    fn one_leader_takes_all_that_gathered_and_resigns_when_nothing_is_left() {
        let mut uncommitted = Uncommitted::default();
        assert!(!uncommitted.appoint_leader(), "nothing is ready");
        let blob = push_blob(&mut uncommitted, "small", 10_000);
        assert!(uncommitted.appoint_leader());
        assert!(!uncommitted.appoint_leader(), "there is one");
        push_change(&mut uncommitted, &[&blob]);
        push_change(&mut uncommitted, &[]);
        assert_eq!(take(&mut uncommitted), Some((1, 2)));
        push_change(&mut uncommitted, &[]);
        assert!(!uncommitted.appoint_leader(), "it is at work");
        assert_eq!(take(&mut uncommitted), Some((0, 1)));
        assert_eq!(take(&mut uncommitted), None);
        push_change(&mut uncommitted, &[]);
        assert!(uncommitted.appoint_leader());
    }

    #[test]
    fn a_change_waits_for_its_large_blobs_and_holds_nothing_else_up() {
        let mut uncommitted = Uncommitted::default();
        let large = push_blob(&mut uncommitted, "large", LARGE);
        push_change(&mut uncommitted, &[&large]);
        assert!(!uncommitted.appoint_leader());
        push_change(&mut uncommitted, &[]);
        assert!(uncommitted.appoint_leader());
        assert_eq!(take(&mut uncommitted), Some((0, 1)));
        assert_eq!(take(&mut uncommitted), None);
        let batch = uncommitted.take_large().unwrap();
        assert!(uncommitted.take_large().is_none());
        let committed = batch.blobs.into_iter().map(|blob| (blob.close(), Ok(()))).collect();
        uncommitted.complete(committed);
        assert!(uncommitted.appoint_leader());
        assert_eq!(take(&mut uncommitted), Some((0, 1)));
        assert!(large.wait_durable(&PullContext::new()).is_ok());
    }

    #[test]
    fn a_blob_without_an_outcome_is_failed_and_one_with_an_outcome_is_not() {
        let mut uncommitted = Uncommitted::default();
        let done = push_blob(&mut uncommitted, "done", 1);
        let left = push_blob(&mut uncommitted, "left", 1);
        done.complete(Ok(()));
        let blobs = [("done", &done), ("left", &left)];
        let blobs = blobs.map(|(name, pending)| (Digest::sha256(name.as_bytes()), Arc::clone(pending)));
        uncommitted.fail(blobs.into(), &Error::new(ErrorKind::Panicked, "it panicked"));
        assert!(done.wait_durable(&PullContext::new()).is_ok());
        assert_eq!(left.wait_durable(&PullContext::new()).unwrap_err().kind(), ErrorKind::Panicked);
        assert!(uncommitted.pending(&Digest::sha256("left".as_bytes())).is_none());
    }
}
