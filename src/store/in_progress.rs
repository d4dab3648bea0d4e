//! The digests that threads of this process fetch: one thread a digest.

use crate::context::PullContext;
use crate::error::Error;
use crate::image::digest::Digest;
use crate::sync::{Joined, Leader, Outcome, SingleFlight};

/// The digests that are being fetched. A single flight without a value: each thread that waits takes over
/// when the one before it has ended, and finds the blob in the store or fetches it.
#[derive(Debug, Default)]
pub(super) struct InProgress(SingleFlight<Digest, ()>);

/// The right to fetch a digest, alone in this process, until dropped.
#[derive(Debug)]
pub(super) struct Claim {
    _leader: Leader<Digest, ()>,
}

impl InProgress {
    /// Waits for the right to fetch the digest.
    ///
    /// # Errors
    /// `Cancelled` or `Timeout`, as soon as the context ends.
    pub(super) fn claim(&self, cx: &PullContext, digest: &Digest) -> Result<Claim, Error> {
        loop {
            let follower = match self.0.join(digest) {
                Joined::Leader(leader) => return Ok(Claim { _leader: leader }),
                Joined::Follower(follower) => follower,
            };
            if let Some(Outcome::Lead(leader)) = cx.wait_for(follower.outcome())? {
                return Ok(Claim { _leader: leader });
            }
        }
    }

    /// Returns whether a thread fetches the digest just now.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.0.is_led(digest)
    }
}
