//! A request that a puller did not take.

use std::fmt;

use crossbeam_channel::Sender;

use super::queued::Pending;
use super::result::PullResult;
use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::service::PullRequest;

/// Why a puller did not take a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum RejectReason {
    /// The queue has no room.
    #[error("the puller's queue is full")]
    Full,
    /// The puller was shut down.
    #[error("the puller was shut down before the pull began")]
    ShutDown,
}

impl RejectReason {
    pub(super) fn into_error(self) -> Error {
        let kind = match self {
            RejectReason::Full => ErrorKind::ResourceExhausted,
            RejectReason::ShutDown => ErrorKind::ShutDown,
        };
        Error::new(kind, self.to_string())
    }
}

/// A request that a puller did not take, given back whole.
#[derive(thiserror::Error)]
#[error("{}: {}", self.0.pending.request.image.image, self.0.reason)]
pub struct Rejected(Box<Returned>);

struct Returned {
    reason: RejectReason,
    pending: Pending,
}

impl Rejected {
    pub(super) fn new(pending: Pending, reason: RejectReason) -> Self {
        Rejected(Box::new(Returned { reason, pending }))
    }

    /// Returns why it was not taken.
    pub fn reason(&self) -> RejectReason {
        self.0.reason
    }

    /// Returns the context, the request and the sender that were given.
    pub fn into_parts(self) -> (PullContext, PullRequest, Sender<PullResult>) {
        let Pending { cx, request, results, .. } = self.0.pending;
        (cx, request, results)
    }

    pub(super) fn into_pending(self) -> (Pending, RejectReason) {
        let Returned { reason, pending } = *self.0;
        (pending, reason)
    }
}

impl fmt::Debug for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected")
            .field("reason", &self.0.reason)
            .field("request", &self.0.pending.request)
            .finish_non_exhaustive()
    }
}
