//! Requirements of a rule.

use super::signer::Signer;

/// A requirement of a rule. An image must meet each of them.
#[derive(Clone, Debug)]
pub(super) enum Requirement {
    AcceptUnsigned,
    Reject,
    SignedBy(Signer),
}
