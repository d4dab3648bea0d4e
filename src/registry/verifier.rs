//! The caller's own word on an image, before any of its blobs is fetched: the place for signatures
//! and admission policy.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::request::{PullSession, Request, Target};
use super::resolve::Resolved;
use super::retry::{self, HostAttempts};
use crate::error::{Error, ErrorKind, Phase};
use crate::image::digest::Digest;
use crate::image::manifest::{Descriptor, Document, Index, MAX_DOCUMENT_BYTES, media_type};
use crate::image::reference::Reference;

/// Decides whether an image may be pulled.
pub trait ImageVerifier: Send + Sync {
    /// Looks at an image whose manifest is there and whose blobs are not. Called on the pull's thread.
    ///
    /// # Errors
    /// The reason why not: the pull fails with `Denied`, and the reason in its message. A panic does
    /// the same.
    fn verify(&self, candidate: &Candidate<'_>) -> Result<(), String>;
}

/// An image that a verifier is to decide about.
pub struct Candidate<'a> {
    session: &'a PullSession<'a>,
    resolved: &'a Resolved,
}

impl Candidate<'_> {
    /// What was asked for.
    pub fn reference(&self) -> &Reference {
        self.session.reference
    }

    /// What the reference stands for: the manifest, or the index that it was chosen from.
    pub fn descriptor(&self) -> &Descriptor {
        &self.resolved.root
    }

    /// The bytes of the manifest for this platform.
    pub fn manifest(&self) -> &[u8] {
        self.resolved.documents.last().map_or(&[], |manifest| &manifest.bytes)
    }

    /// What refers to `digest`, signatures for one, by the registry's
    /// [referrers API](https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#listing-referrers).
    ///
    /// # Errors
    /// `NotFound` if the registry has no such API, and what asking a registry fails with.
    pub fn referrers(&self, digest: &Digest) -> Result<Index, Error> {
        let path = format!("referrers/{digest}");
        let request = Request {
            target: Target::Api(&path),
            accept: Some(media_type::OCI_INDEX),
            range: None,
            phase: Phase::Manifest,
        };
        let reached = Default::default();
        let host_attempts =
            HostAttempts { phase: Phase::Manifest, may: |host| host.capabilities.resolve, reached: &reached };
        retry::over_hosts(self.session, &host_attempts, |endpoint| {
            let answer = self.session.request(endpoint, request)?;
            let (mut body, _slot) = answer.into_body();
            match Document::parse(Some(media_type::OCI_INDEX), &body.read_to_end(MAX_DOCUMENT_BYTES)?)? {
                Document::Index(index) => Ok(index),
                Document::Manifest(_) => {
                    Err(Error::new(ErrorKind::Protocol, "the referrers are no index")
                        .with_host(&endpoint.name))
                }
            }
        })
    }
}

impl fmt::Debug for Candidate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate")
            .field("reference", &self.reference().to_string())
            .field("digest", &self.descriptor().digest)
            .finish()
    }
}

/// Runs the caller's verifier, if one is set.
pub(super) fn verify(session: &PullSession<'_>, resolved: &Resolved) -> Result<(), Error> {
    let Some(verifier) = &session.service.verifier else { return Ok(()) };
    let candidate = Candidate { session, resolved };
    let verdict = catch_unwind(AssertUnwindSafe(|| verifier.verify(&candidate)))
        .unwrap_or_else(|_| Err("the check panicked".to_owned()));
    verdict.map_err(|reason| Error::new(ErrorKind::Denied, reason).with_retryable(false))
}
