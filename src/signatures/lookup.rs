//! Looks an image's signatures up in its registry: under cosign's tag and among the referrers, side by side.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crossbeam_channel::{Sender, unbounded};

use super::bundle;
use super::judge::{Judge, Signature};
use super::simple_signing;
use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;
use crate::image::manifest::{Descriptor, Document, Manifest};
use crate::registry::{Candidate, VerifyError};

/// Maximum number of referrers that are looked at.
const MAX_REFERRERS: usize = 256;

/// Bounds of a look-up.
#[derive(Clone, Copy, Debug)]
pub(super) struct SignatureLimits {
    /// Maximum number of signatures that are fetched.
    pub(super) signatures: usize,
    /// Maximum size of each, bytes.
    pub(super) bytes: u64,
}

/// What the search of one place reports.
enum Finding {
    /// A signature, or content in its place that is none.
    Signature(Signature),
    /// A layer that holds a signature, and its bytes.
    Layer(Box<Descriptor>, Vec<u8>),
    /// Signatures may be left that are not looked at, and why.
    Incomplete(String),
    Failed(Error),
}

/// Where a registry has an image's signatures.
#[derive(Clone, Copy)]
enum SignaturePlace<'a> {
    /// The tag `ALGORITHM-HEX.sig`.
    Tag(&'a Digest),
    Referrers(&'a Digest),
}

/// Gives the judge the signatures that the registry has, until it is satisfied.
///
/// Each place is searched on a thread of its own, at most four, with one request at a time. None waits for the
/// others once the judge is satisfied.
///
/// # Errors
/// `Denied` if everything was looked at and does not suffice, or a limit was reached; `Failed` if a look-up failed.
pub(super) fn search(
    candidate: &Candidate<'_>,
    limits: SignatureLimits,
    judge: &mut Judge<'_>,
) -> Result<(), VerifyError> {
    let (root, platform) = (&candidate.descriptor().digest, &candidate.platform_manifest().digest);
    let mut places = vec![SignaturePlace::Tag(root), SignaturePlace::Referrers(root)];
    if root != platform {
        places.extend([SignaturePlace::Tag(platform), SignaturePlace::Referrers(platform)]);
    }
    let (mut failure, mut incomplete) = (None, None);
    candidate.with_stop(|candidate, stop| {
        let fetched = AtomicUsize::new(0);
        thread::scope(|scope| {
            let (sender, findings) = unbounded();
            for (number, place) in places.iter().enumerate() {
                let search = PlaceSearch { candidate, limits, fetched: &fetched, findings: sender.clone() };
                let builder = thread::Builder::new().name(format!("signature-{}", number + 1));
                if let Err(error) = builder.spawn_scoped(scope, move || search.run(*place)) {
                    let text = format!("no thread for a look-up of signatures: {error}");
                    failure = Some(Error::new(ErrorKind::ResourceExhausted, text));
                }
            }
            drop(sender);
            for finding in findings {
                match finding {
                    Finding::Signature(signature) => drop(judge.add(&signature)),
                    Finding::Layer(layer, bytes) => {
                        if judge.add_layer(&layer, &bytes) {
                            candidate.keep(&layer, &bytes);
                        }
                    }
                    Finding::Incomplete(why) => drop(incomplete.get_or_insert(why)),
                    Finding::Failed(error) => drop(failure.get_or_insert(error)),
                }
                if judge.is_satisfied() {
                    stop.cancel();
                    break;
                }
            }
        });
    });
    match (failure, incomplete) {
        _ if judge.is_satisfied() => Ok(()),
        (Some(error), _) => Err(VerifyError::Failed(error)),
        (None, Some(why)) => Err(VerifyError::Denied(format!("{}; {why}", judge.reason()))),
        (None, None) => Err(VerifyError::Denied(judge.reason())),
    }
}

/// Searches one place.
struct PlaceSearch<'a> {
    candidate: &'a Candidate<'a>,
    limits: SignatureLimits,
    /// The number of signatures that all searches have fetched.
    fetched: &'a AtomicUsize,
    findings: Sender<Finding>,
}

impl PlaceSearch<'_> {
    fn run(&self, place: SignaturePlace<'_>) {
        let searched = match place {
            SignaturePlace::Tag(digest) => self.tag(digest),
            SignaturePlace::Referrers(digest) => self.referrers(digest),
        };
        if let Err(error) = searched {
            self.report(Finding::Failed(error));
        }
    }

    fn report(&self, finding: Finding) {
        // The receiver is gone once the judge is satisfied.
        let _ = self.findings.send(finding);
    }

    fn tag(&self, digest: &Digest) -> Result<(), Error> {
        let tag = format!("{}-{}.sig", digest.algorithm().as_str(), digest.hex());
        match self.candidate.fetch_manifest(&tag) {
            Ok(fetched) => self.document(&fetched.document),
            // A SHA-512 is too long for a tag: cosign writes none.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidReference) => Ok(()),
            Err(error) => self.unusable_or(error),
        }
    }

    fn referrers(&self, digest: &Digest) -> Result<(), Error> {
        let referrers = match self.candidate.referrers(digest) {
            Ok(referrers) => referrers,
            // The list was received, and is too long or no list.
            Err(error)
                if matches!(error.kind(), ErrorKind::InvalidManifest | ErrorKind::Protocol)
                    && !error.is_retryable() =>
            {
                let why = "the list of its referrers is invalid or has too many entries";
                self.report(Finding::Incomplete(why.into()));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if !referrers.is_complete || referrers.manifests.len() > MAX_REFERRERS {
            let why = format!("it has too many referrers: at most {MAX_REFERRERS} are looked at");
            self.report(Finding::Incomplete(why));
        }
        for entry in referrers.manifests.iter().take(MAX_REFERRERS) {
            let kind = entry.artifact_type.as_deref().unwrap_or_default();
            let is_signature = bundle::is_bundle(kind) || kind.starts_with("application/vnd.dev.cosign.");
            if !is_signature {
                continue;
            }
            match self.candidate.fetch_manifest(entry.digest.as_str()) {
                Ok(fetched) => self.document(&fetched.document)?,
                Err(error) => self.unusable_or(error)?,
            }
        }
        Ok(())
    }

    /// Fetches the signatures that a manifest lists.
    fn document(&self, document: &Document) -> Result<(), Error> {
        match document {
            Document::Manifest(manifest) => self.manifest(manifest),
            Document::Index(_) => {
                self.report(Finding::Signature(Signature::Unusable("which is an index".into())));
                Ok(())
            }
        }
    }

    fn manifest(&self, manifest: &Manifest) -> Result<(), Error> {
        for layer in &manifest.layers {
            let is_simple = layer.media_type == simple_signing::MEDIA_TYPE;
            if !is_simple && !bundle::is_bundle(&layer.media_type) {
                continue;
            }
            if self.fetched.fetch_add(1, Ordering::Relaxed) >= self.limits.signatures {
                let why = format!("there are too many: at most {} are looked at", self.limits.signatures);
                self.report(Finding::Incomplete(why));
                return Ok(());
            }
            if layer.size > self.limits.bytes {
                let why = format!("which is larger than {} bytes", self.limits.bytes);
                self.report(Finding::Signature(Signature::Unusable(why)));
                continue;
            }
            match self.candidate.fetch_blob(layer) {
                Ok(bytes) => self.report(Finding::Layer(Box::new(layer.clone()), bytes)),
                Err(error) => self.unusable_or(error)?,
            }
        }
        Ok(())
    }

    /// Reports content that cannot be a signature as one that does not count. Trouble on the way remains an error.
    fn unusable_or(&self, error: Error) -> Result<(), Error> {
        use ErrorKind::{DigestMismatch, InvalidManifest, NotFound, Unsupported};
        if !matches!(error.kind(), NotFound | InvalidManifest | Unsupported | DigestMismatch) {
            return Err(error);
        }
        self.report(Finding::Signature(Signature::Unusable(format!(
            "which cannot be read ({})",
            error.kind()
        ))));
        Ok(())
    }
}
