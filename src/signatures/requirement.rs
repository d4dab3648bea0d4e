//! Requirements of a rule.

use super::signer::Signer;

/// A requirement of a rule; each of a rule must be met.
#[derive(Clone, Debug)]
pub(super) enum Requirement {
    AcceptUnsigned,
    Reject,
    SignedBy(Signer),
}
