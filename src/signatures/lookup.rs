//! Looks for an image's signatures in its registry: under cosign's tag and among the referrers, side by side.

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

/// Referrers that are looked at.
const MAX_REFERRERS: usize = 256;

/// Bounds of a look-up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Signatures that are fetched.
    pub(super) signatures: usize,
    /// Bytes of each.
    pub(super) bytes: u64,
}

/// What a look-up reports.
enum Event {
    Found(Signature),
    /// A layer that holds a signature, and its bytes.
    Fetched(Box<Descriptor>, Vec<u8>),
    /// A bound was reached: there are more.
    TooMany,
    Failed(Error),
}

/// A way to an image's signatures.
#[derive(Clone, Copy)]
enum Place<'a> {
    /// The tag `ALGORITHM-HEX.sig`.
    Tag(&'a Digest),
    Referrers(&'a Digest),
}

/// Feeds the judge with the signatures that the registry has, until it is satisfied.
///
/// Each place is searched on a thread of its own, at most four, with one request at a time. None waits for the
/// others once the judge is satisfied.
///
/// # Errors
/// `Denied` if everything was looked at and does not suffice; `Failed` if a look-up failed.
pub(super) fn search(
    candidate: &Candidate<'_>,
    limits: Limits,
    judge: &mut Judge<'_>,
) -> Result<(), VerifyError> {
    let (root, platform) = (&candidate.descriptor().digest, &candidate.platform_manifest().digest);
    let mut places = vec![Place::Tag(root), Place::Referrers(root)];
    if root != platform {
        places.extend([Place::Tag(platform), Place::Referrers(platform)]);
    }
    let (mut failure, mut too_many) = (None, false);
    candidate.with_stop(|candidate, stop| {
        let fetched = AtomicUsize::new(0);
        thread::scope(|scope| {
            let (sender, events) = unbounded();
            for (number, place) in places.iter().enumerate() {
                let search = Search { candidate, limits, fetched: &fetched, events: sender.clone() };
                let builder = thread::Builder::new().name(format!("signature-{}", number + 1));
                if let Err(error) = builder.spawn_scoped(scope, move || search.run(*place)) {
                    let text = format!("no thread for a look-up of signatures: {error}");
                    failure = Some(Error::new(ErrorKind::ResourceExhausted, text));
                }
            }
            drop(sender);
            for event in events {
                match event {
                    Event::Found(signature) => drop(judge.add(&signature)),
                    Event::Fetched(layer, bytes) => {
                        if judge.add_layer(&layer, &bytes) {
                            candidate.keep(&layer, &bytes);
                        }
                    }
                    Event::TooMany => too_many = true,
                    Event::Failed(error) => drop(failure.get_or_insert(error)),
                }
                if judge.is_satisfied() {
                    stop.cancel();
                    break;
                }
            }
        });
    });
    match failure {
        _ if judge.is_satisfied() => Ok(()),
        Some(error) => Err(VerifyError::Failed(error)),
        None if too_many => {
            let Limits { signatures, .. } = limits;
            let reason = judge.reason();
            let text = format!(
                "{reason}; there are too many to look at all ({signatures} signatures of {MAX_REFERRERS} referrers)"
            );
            Err(VerifyError::Denied(text))
        }
        None => Err(VerifyError::Denied(judge.reason())),
    }
}

struct Search<'a> {
    candidate: &'a Candidate<'a>,
    limits: Limits,
    /// Signatures that all searches have fetched.
    fetched: &'a AtomicUsize,
    events: Sender<Event>,
}

impl Search<'_> {
    fn run(&self, place: Place<'_>) {
        let searched = match place {
            Place::Tag(digest) => self.tag(digest),
            Place::Referrers(digest) => self.referrers(digest),
        };
        if let Err(error) = searched {
            self.report(Event::Failed(error));
        }
    }

    fn report(&self, event: Event) {
        // The receiver is gone once the judge is satisfied.
        let _ = self.events.send(event);
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
        let referrers = self.candidate.referrers(digest)?;
        if !referrers.is_complete || referrers.manifests.len() > MAX_REFERRERS {
            self.report(Event::TooMany);
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
                self.report(Event::Found(Signature::Unusable("which is an index".into())));
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
                self.report(Event::TooMany);
                return Ok(());
            }
            if layer.size > self.limits.bytes {
                let why = format!("which is larger than {} bytes", self.limits.bytes);
                self.report(Event::Found(Signature::Unusable(why)));
                continue;
            }
            match self.candidate.fetch_blob(layer) {
                Ok(bytes) => self.report(Event::Fetched(Box::new(layer.clone()), bytes)),
                Err(error) => self.unusable_or(error)?,
            }
        }
        Ok(())
    }

    /// Takes what cannot be a signature for one that does not count; trouble on the way remains an error.
    fn unusable_or(&self, error: Error) -> Result<(), Error> {
        use ErrorKind::{DigestMismatch, InvalidManifest, NotFound, Unsupported};
        if !matches!(error.kind(), NotFound | InvalidManifest | Unsupported | DigestMismatch) {
            return Err(error);
        }
        self.report(Event::Found(Signature::Unusable(format!("which cannot be read ({})", error.kind()))));
        Ok(())
    }
}
