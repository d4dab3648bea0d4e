//! Who in this process fetches a blob: one thread a digest.

use std::collections::HashMap;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::context::PullContext;
use crate::error::Error;
use crate::image::digest::Digest;

/// Which digests threads of this process are fetching, and who waits for them.
#[derive(Debug, Default)]
pub(super) struct InProgress(Mutex<HashMap<Digest, Waiters>>);

/// Notices the end of the claim when the sender is dropped.
#[derive(Debug)]
struct Waiters {
    _ends: Sender<()>,
    ended: Receiver<()>,
}

/// The right to fetch a digest, alone in this process.
#[derive(Debug)]
pub(super) struct Claim {
    in_progress: Arc<InProgress>,
    digest: Digest,
}

impl InProgress {
    pub(super) fn claim(self: &Arc<Self>, cx: &PullContext, digest: &Digest) -> Result<Claim, Error> {
        while let Some(ended) = self.taken(digest) {
            cx.wait_for(&ended)?;
        }
        Ok(Claim { in_progress: self.clone(), digest: digest.clone() })
    }

    /// Whether a thread is fetching the digest just now.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.0.lock().contains_key(digest)
    }

    /// Takes the digest, or answers what to wait for.
    fn taken(&self, digest: &Digest) -> Option<Receiver<()>> {
        let mut claims = self.0.lock();
        if let Some(waiters) = claims.get(digest) {
            return Some(waiters.ended.clone());
        }
        let (ends, ended) = bounded(0);
        claims.insert(digest.clone(), Waiters { _ends: ends, ended });
        None
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.in_progress.0.lock().remove(&self.digest);
    }
}
