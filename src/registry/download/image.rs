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

/// The order in which the blobs of an image are begun.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::registry) enum BlobOrder {
    /// A pull lasts as long as its last blob.
    LargestFirst,
    /// Config, base layer, and so on, as they are unpacked.
    #[cfg(feature = "unpack")]
    Listed,
}

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
    order: BlobOrder,
) -> Result<TransferStats, Error> {
    let mut blobs = manifest.blobs();
    let missing = missing_bytes(session, &blobs)?;
    let reserved = session.service.store.reserve_space(session.cx, &blobs);
    let _space = reserved.map_err(|error| error.with_phase(Phase::Store))?;
    if order == BlobOrder::LargestFirst {
        blobs.sort_by_key(|blob| Reverse(blob.size));
    }
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
