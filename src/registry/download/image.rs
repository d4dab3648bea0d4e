//! The blobs of one image.

use std::cmp::Reverse;

use super::pool::DownloadPool;
use super::stats::TransferStats;
use super::worker;
use crate::context::CancelToken;
use crate::error::{Error, Phase};
use crate::image::manifest::{Descriptor, Manifest};
use crate::registry::request::PullSession;
use crate::store::Transaction;

/// Fetches those blobs of an image, config and layers, that the store lacks. `stop` cancels the
/// session's context: the first blob that fails ends the others.
///
/// # Errors
/// The error of the first blob that failed.
pub(in crate::registry) fn blobs(
    session: &PullSession<'_>,
    stop: &CancelToken,
    transaction: &Transaction,
    manifest: &Manifest,
) -> Result<TransferStats, Error> {
    let mut blobs = manifest.blobs();
    let missing = missing_bytes(session, &blobs)?;
    let reserved = session.service.store.reserve_space(session.cx, &blobs);
    let _space = reserved.map_err(|error| error.with_phase(Phase::Store))?;
    // The largest first: the pull lasts as long as its last blob.
    blobs.sort_by_key(|blob| Reverse(blob.size));
    worker::fetch_all(DownloadPool::new(session, stop, transaction, &manifest.config, blobs, missing))
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
