//! Signature policies: which images a pull accepts by the signatures in their registry.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod keys;
mod limits;
mod policy_files;
mod sign;
mod sigstore_js;
mod stored;
mod verdicts;
