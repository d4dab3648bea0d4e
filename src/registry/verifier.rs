//! The caller's own check of an image before any of its layers is fetched: the place for signatures and
//! admission policy.

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;

use super::document;
use super::referrers;
use super::request::PullSession;
use super::resolve::Resolved;
#[cfg(feature = "signatures")]
use crate::context::CancelToken;
use crate::error::{Error, ErrorKind, Phase};
use crate::image::digest::Digest;
use crate::image::manifest::{Descriptor, Document};
use crate::image::reference::{self, Reference};

use crate::store::{Signatures, Store, StoredImage};

pub use super::referrers::Referrers;

/// Maximum size of a manifest or a blob that a verifier fetches, bytes.
const MAX_FETCH: u64 = 1 << 20;

/// Maximum size of the manifests that a candidate remembers, bytes.
const MAX_REMEMBERED: usize = 4 << 20;

/// The number of referrers whose manifest is read for the type that their list lacks.
const MAX_TYPES_READ: usize = 256;

/// Decides whether an image may be pulled.
pub trait ImageVerifier: Send + Sync {
    /// Judges an image whose manifest is known and of which no layer was fetched. Runs on the pull's
    /// thread.
    ///
    /// # Errors
    /// [`VerifyError::Denied`] refuses the image: the pull fails with `Denied` and is not retried.
    /// [`VerifyError::Failed`] says that no verdict was reached, for example because a registry did not
    /// answer: the pull fails with that error, of its own kind. A panic refuses the image.
    fn verify(&self, candidate: &Candidate<'_>) -> Result<(), VerifyError>;

    /// Judges an image that is in the store, without a request to a registry. `name` is the name that it was
    /// asked for by, or `None` where that was an id or a digest. A refused image counts as absent:
    /// [`image_ref`](crate::ImageService::image_ref) answers `None`, and
    /// [`image_refusal`](crate::ImageService::image_refusal) the reason. Default: accepts it.
    ///
    /// # Errors
    /// As of [`verify`](Self::verify). A panic refuses the image.
    fn verify_stored(
        &self,
        store: &Store,
        image: &StoredImage,
        name: Option<&Reference>,
    ) -> Result<(), VerifyError> {
        let _ = (store, image, name);
        Ok(())
    }
}

impl<V: ImageVerifier + ?Sized> ImageVerifier for Arc<V> {
    fn verify(&self, candidate: &Candidate<'_>) -> Result<(), VerifyError> {
        (**self).verify(candidate)
    }

    fn verify_stored(
        &self,
        store: &Store,
        image: &StoredImage,
        name: Option<&Reference>,
    ) -> Result<(), VerifyError> {
        (**self).verify_stored(store, image, name)
    }
}

/// Why a verifier did not accept an image.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The image is refused, for this reason. The reason holds no secret.
    #[error("denied: {0}")]
    Denied(String),
    /// The check could not be completed.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// A manifest or an index that a verifier fetched; its bytes hash to the descriptor's digest.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FetchedManifest {
    /// Media type, digest and size.
    pub descriptor: Descriptor,
    /// The parsed bytes.
    pub document: Document,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// An image that a verifier is to judge, and the way to what its registry has about it.
///
/// Requests go the way of the pull: to the same hosts in the same order, with the same credentials, retries,
/// deadline and cancellation.
pub struct Candidate<'a> {
    session: &'a PullSession<'a>,
    resolved: &'a Resolved,
    manifests: Mutex<HashMap<Digest, Arc<FetchedManifest>>>,
    kept: &'a Mutex<Signatures>,
}

impl Candidate<'_> {
    /// Returns the reference that was asked for.
    pub fn reference(&self) -> &Reference {
        self.session.reference
    }

    /// Returns what the reference names: the manifest, or the index that it was chosen from.
    pub fn descriptor(&self) -> &Descriptor {
        &self.resolved.root
    }

    /// Returns the bytes of [`descriptor`](Self::descriptor).
    pub fn root(&self) -> &[u8] {
        self.resolved.documents.first().map_or(&[], |root| &root.bytes)
    }

    /// Returns the descriptor of the manifest for this platform; the same as
    /// [`descriptor`](Self::descriptor) for an image without an index.
    pub fn platform_manifest(&self) -> &Descriptor {
        &self.resolved.manifest_descriptor
    }

    /// Returns the bytes of [`platform_manifest`](Self::platform_manifest).
    pub fn manifest(&self) -> &[u8] {
        self.resolved.documents.last().map_or(&[], |manifest| &manifest.bytes)
    }

    /// Lists the manifests that name `subject` as their subject, such as signatures, by the
    /// [referrers API](https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#listing-referrers)
    /// or, where a host lacks it, by the tag `ALGORITHM-HEX`.
    ///
    /// Reads at most 8 pages. A host that lists nothing is followed by the next one, so a mirror without
    /// referrers does not hide those of the registry. An entry without an `artifactType` gets the one of
    /// its manifest, for at most 256 entries.
    ///
    /// # Errors
    /// What the requests fail with. A registry that has no referrers is no error: the list is empty.
    pub fn referrers(&self, subject: &Digest) -> Result<Referrers, Error> {
        let mut referrers = referrers::list(self.session, subject)?;
        let untyped = referrers.manifests.iter_mut().filter(|entry| entry.artifact_type.is_none());
        for entry in untyped.take(MAX_TYPES_READ) {
            entry.artifact_type = self.artifact_type_of(entry)?;
        }
        Ok(referrers)
    }

    /// Reads the artifact type from the manifest; `None` if the manifest cannot be had or read, which is
    /// no reason to miss the other referrers.
    fn artifact_type_of(&self, entry: &Descriptor) -> Result<Option<String>, Error> {
        match self.manifest_by_digest(&entry.digest, Some(entry)) {
            Ok(fetched) => Ok(artifact_type(&fetched.document)),
            Err(error) if is_unusable(error.kind()) => {
                log::debug!("{}: the referrer {} is not used: {error}", self.reference(), entry.digest);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Fetches a manifest or an index of the same repository, of at most 1 MiB. `reference` is a tag or a
    /// digest. One that was fetched by digest is remembered.
    ///
    /// # Errors
    /// [`InvalidReference`](ErrorKind::InvalidReference) if `reference` is neither; [`NotFound`](ErrorKind::NotFound)
    /// if no host has it; [`InvalidManifest`](ErrorKind::InvalidManifest), [`Unsupported`](ErrorKind::Unsupported),
    /// [`DigestMismatch`](ErrorKind::DigestMismatch); and what the requests fail with.
    pub fn fetch_manifest(&self, reference: &str) -> Result<FetchedManifest, Error> {
        if reference.contains(':') {
            let fetched = self.manifest_by_digest(&Digest::parse(reference)?, None)?;
            return Ok(FetchedManifest::clone(&fetched));
        }
        reference::check_tag(reference)
            .map_err(|why| Error::new(ErrorKind::InvalidReference, format!("{reference:?}: {why}")))?;
        document::by_tag(self.session, reference, MAX_FETCH as usize).map(FetchedManifest::from)
    }

    /// Runs `check` with a candidate whose requests also end when the token is cancelled.
    #[cfg(feature = "signatures")]
    pub(crate) fn with_stop<T>(&self, check: impl FnOnce(&Candidate<'_>, &CancelToken) -> T) -> T {
        let stop = CancelToken::new();
        let cx = self.session.cx.or_cancelled_by(&stop);
        let session = self.session.with_context(&cx);
        let candidate = Candidate {
            session: &session,
            resolved: self.resolved,
            manifests: Mutex::default(),
            kept: self.kept,
        };
        check(&candidate, &stop)
    }

    /// Keeps a signature in the store, with the image, if it is pulled: [`verify_stored`] can judge by it later.
    /// `signature` is its layer in a manifest of signatures, with the annotations. At most 1,024 signatures and
    /// 2 MiB are kept, and none whose bytes do not match the descriptor.
    ///
    /// [`verify_stored`]: ImageVerifier::verify_stored
    pub fn keep(&self, signature: &Descriptor, bytes: &[u8]) {
        self.kept.lock().add(signature, bytes);
    }

    /// Returns the signatures that the store keeps with this image from an earlier pull or import.
    ///
    /// # Errors
    /// `Store`.
    #[cfg(feature = "signatures")]
    pub(crate) fn stored_signatures(&self) -> Result<Signatures, Error> {
        let targets = [&self.descriptor().digest, &self.platform_manifest().digest];
        self.session.service.store.signatures_of(&targets)
    }

    fn manifest_by_digest(
        &self,
        digest: &Digest,
        described: Option<&Descriptor>,
    ) -> Result<Arc<FetchedManifest>, Error> {
        if let Some(known) = self.manifests.lock().get(digest) {
            return Ok(Arc::clone(known));
        }
        let fetched = document::by_digest(self.session, digest, described, MAX_FETCH as usize)?;
        let fetched = Arc::new(FetchedManifest::from(fetched));
        let mut manifests = self.manifests.lock();
        let held: usize = manifests.values().map(|known| known.bytes.len()).sum();
        if held + fetched.bytes.len() <= MAX_REMEMBERED {
            manifests.insert(digest.clone(), Arc::clone(&fetched));
        }
        Ok(fetched)
    }

    /// Fetches a blob of the same repository, of at most 1 MiB, and verifies size and digest.
    ///
    /// # Errors
    /// [`InvalidManifest`](ErrorKind::InvalidManifest) if the descriptor names more than 1 MiB;
    /// [`NotFound`](ErrorKind::NotFound), [`SizeMismatch`](ErrorKind::SizeMismatch),
    /// [`DigestMismatch`](ErrorKind::DigestMismatch); and what the requests fail with.
    pub fn fetch_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        if descriptor.size > MAX_FETCH {
            let Descriptor { digest, size, .. } = descriptor;
            let message = format!("{digest} is {size} bytes, and a verifier reads at most {MAX_FETCH}");
            return Err(Error::new(ErrorKind::InvalidManifest, message).with_phase(Phase::Manifest));
        }
        document::blob(self.session, descriptor, Phase::Manifest).map(|blob| blob.bytes)
    }
}

impl From<document::FetchedDocument> for FetchedManifest {
    fn from(fetched: document::FetchedDocument) -> Self {
        let document::FetchedDocument { descriptor, bytes, document, .. } = fetched;
        FetchedManifest { descriptor, document, bytes }
    }
}

impl fmt::Debug for Candidate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate")
            .field("reference", &self.reference().to_string())
            .field("digest", &self.descriptor().digest)
            .finish_non_exhaustive()
    }
}

/// Returns the artifact type, by the
/// [image spec](https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md#guidelines-for-artifact-usage):
/// a manifest without one is of the type of its config.
fn artifact_type(document: &Document) -> Option<String> {
    match document {
        Document::Manifest(manifest) => {
            Some(manifest.artifact_type.clone().unwrap_or_else(|| manifest.config.media_type.clone()))
        }
        Document::Index(index) => index.artifact_type.clone(),
    }
}

fn is_unusable(kind: ErrorKind) -> bool {
    use ErrorKind::*;
    matches!(kind, NotFound | InvalidManifest | Unsupported | DigestMismatch)
}

/// Runs the caller's verifier. Returns the signatures that it keeps.
///
/// # Errors
/// `Denied`, or the error of a check that could not be completed.
pub(super) fn verify(
    verifier: &dyn ImageVerifier,
    session: &PullSession<'_>,
    resolved: &Resolved,
) -> Result<Signatures, Error> {
    let kept = Mutex::default();
    let candidate = Candidate { session, resolved, manifests: Mutex::default(), kept: &kept };
    let verdict = catch_unwind(AssertUnwindSafe(|| verifier.verify(&candidate)))
        .unwrap_or_else(|_| Err(VerifyError::Denied("the verifier panicked".to_owned())));
    verdict.map_err(|error| match error {
        VerifyError::Denied(reason) => denied(reason),
        VerifyError::Failed(error) => error.with_phase(Phase::Manifest),
    })?;
    Ok(kept.into_inner())
}

/// Asks the caller's verifier about an image in the store. Returns the refusal, or `None` if it accepts the image.
///
/// # Errors
/// The error of a check that could not be completed.
pub(super) fn refusal_of_stored(
    verifier: &dyn ImageVerifier,
    store: &Store,
    image: &StoredImage,
    name: Option<&Reference>,
) -> Result<Option<Error>, Error> {
    let verdict = catch_unwind(AssertUnwindSafe(|| verifier.verify_stored(store, image, name)))
        .unwrap_or_else(|_| Err(VerifyError::Denied("the verifier panicked".to_owned())));
    match verdict {
        Ok(()) => Ok(None),
        Err(VerifyError::Denied(reason)) => Ok(Some(denied(reason))),
        Err(VerifyError::Failed(error)) => Err(error),
    }
}

fn denied(reason: String) -> Error {
    Error::new(ErrorKind::Denied, reason).with_retryable(false)
}
