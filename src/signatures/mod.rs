//! Signature policies: which images must be signed, and with which keys. Verification needs no network beyond the
//! registry and no transparency log.
//!
//! [`SignaturePolicy`] is an [`ImageVerifier`](crate::registry::ImageVerifier): a pull asks it before the first layer is
//! fetched. It accepts what [cosign](https://github.com/sigstore/cosign) writes with a key: simple signing under
//! the tag `sha256-HEX.sig` (cosign 1 and 2), and sigstore bundles found by the referrers API (cosign 3).
//!
//! Everything fails closed: no rule, no signature, an unknown format, key type or policy field is a refusal, or an
//! error when the policy is built.
//!
//! From top to bottom: `policy` and `policy_json` choose the rules for an image; `lookup` finds its signatures in the
//! registry, and `stored` in the store or an archive; `judge` decides which of them count, by `signer`, `identity`,
//! `simple_signing`, `bundle` and `key`.
//!
//! Keyless signatures (Fulcio, Rekor) are not verified: a rule needs a key.

mod bundle;
#[cfg(fuzzing)]
pub mod fuzzing;
mod identity;
mod judge;
mod key;
mod lookup;
mod policy;
mod policy_json;
mod requirement;
mod scope;
mod signer;
mod simple_signing;
mod stored;
mod strict_json;

pub use identity::Identity;
pub use policy::{SignaturePolicy, SignaturePolicyBuilder};
pub use signer::{SignatureFormat, Signer};
