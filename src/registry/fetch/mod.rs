//! Blobs: from the hosts into the store, side by side, going on where they broke.

mod blob;
mod crew;
mod pieces;
mod whole;

use std::cmp::Reverse;
use std::sync::atomic::{AtomicU64, Ordering};

use self::crew::Crew;
use super::request::PullSession;
use crate::context::CancelToken;
use crate::error::{Error, Phase};
use crate::image::manifest::{Descriptor, Manifest};
use crate::store::Transaction;

/// When a blob is fetched in pieces, several at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sharing {
    /// Blobs from this size on, bytes.
    pub(super) from: u64,
    /// The size of a piece, bytes.
    pub(super) piece: u64,
}

/// Where the bytes of an image came from.
#[derive(Debug, Default)]
pub(super) struct Tally {
    fetched: AtomicU64,
    reused: AtomicU64,
}

impl Tally {
    pub(super) fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    pub(super) fn reused(&self) -> u64 {
        self.reused.load(Ordering::Relaxed)
    }

    fn count(&self, fetched: u64, reused: u64) {
        self.fetched.fetch_add(fetched, Ordering::Relaxed);
        self.reused.fetch_add(reused, Ordering::Relaxed);
    }
}

/// Fetches what the store has not of an image's config and layers. `stop` cancels the session's
/// context: the first blob that fails ends the others.
///
/// # Errors
/// The first blob's that failed.
pub(super) fn blobs(
    session: &PullSession<'_>,
    stop: &CancelToken,
    transaction: &Transaction,
    manifest: &Manifest,
) -> Result<Tally, Error> {
    let mut blobs = manifest.blobs();
    let missing = missing_bytes(session, &blobs)?;
    session.service.store.require_space(missing).map_err(|error| error.with_phase(Phase::Store))?;
    // The largest first: the pull lasts as long as its last blob.
    blobs.sort_by_key(|blob| Reverse(blob.size));
    Crew::new(session, stop, transaction, &manifest.config, blobs, missing).fetch_all()
}

fn missing_bytes(session: &PullSession<'_>, blobs: &[&Descriptor]) -> Result<u64, Error> {
    let store = &session.service.store;
    let mut missing = 0_u64;
    for blob in blobs {
        let found = store.has(session.cx, blob).map_err(|error| error.with_phase(Phase::Store))?;
        if found.is_none() {
            missing = missing.saturating_add(blob.size);
        }
    }
    Ok(missing)
}
