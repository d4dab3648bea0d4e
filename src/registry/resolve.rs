//! From a reference to the manifest for this platform, verified.

use super::client::Service;
use super::document::{self, Fetched};
use super::request::PullSession;
use crate::error::{Error, ErrorKind, Phase};
use crate::image::manifest::{Descriptor, Document, ImageConfig, Index, MAX_DOCUMENT_BYTES, Manifest};
use crate::progress::ProgressEvent;

/// Indexes may stand within indexes, so deep.
const MAX_DEPTH: usize = 4;

/// Manifests of an index that names no platforms are asked what they are for; no more than so many.
const MAX_DOUBTFUL: usize = 32;

/// What a reference stands for, for this platform.
pub(super) struct Resolved {
    /// What the reference names: the manifest, or the index that it was chosen from.
    pub(super) root: Descriptor,
    pub(super) manifest: Manifest,
    pub(super) manifest_descriptor: Descriptor,
    /// The indexes on the way, and the manifest: the bytes that the digests are of.
    pub(super) documents: Vec<Fetched>,
}

/// Finds the manifest; asks no host for a digest that the store has.
///
/// # Errors
/// `NotFound`, `Unauthorized` and the like from the hosts; `InvalidManifest`, `Unsupported`,
/// `DigestMismatch`, `NoMatchingPlatform`.
pub(super) fn resolve(session: &PullSession<'_>) -> Result<Resolved, Error> {
    let root = match session.reference.digest() {
        Some(digest) => document::by_digest(session, digest, None, MAX_DOCUMENT_BYTES)?,
        None => document::by_tag(session, session.reference.tag().unwrap_or("latest"), MAX_DOCUMENT_BYTES)?,
    };
    let root_descriptor = root.descriptor.clone();
    let mut search = Search { session, documents: Vec::new(), doubtful: 0, lacking: None };
    match search.descend(root, true)? {
        Some((manifest, manifest_descriptor)) => {
            Ok(Resolved { root: root_descriptor, manifest, manifest_descriptor, documents: search.documents })
        }
        None => Err(search.nothing().with_phase(Phase::Manifest)),
    }
}

/// A walk through indexes to the manifest for this platform.
struct Search<'a, 'r> {
    session: &'a PullSession<'r>,
    /// The indexes on the way, and in the end the manifest.
    documents: Vec<Fetched>,
    /// How many manifests had to be asked what they are for.
    doubtful: usize,
    /// What an index said that has nothing for this platform.
    lacking: Option<Error>,
}

impl Search<'_, '_> {
    /// The manifest that `found` is or leads to; `None` if that is for another platform, which an entry
    /// without a platform may turn out to be. `is_sure` when the platform was compared already.
    fn descend(&mut self, found: Fetched, is_sure: bool) -> Result<Option<(Manifest, Descriptor)>, Error> {
        match found.document.clone() {
            Document::Manifest(manifest) => {
                check(self.session.service, &manifest)?;
                if !is_sure && !self.is_by_its_config_for_us(&manifest.config)? {
                    return Ok(None);
                }
                report(self.session, &found, &manifest);
                let descriptor = found.descriptor.clone();
                self.documents.push(found);
                Ok(Some((manifest, descriptor)))
            }
            Document::Index(index) => {
                self.documents.push(found);
                let chosen = self.choose(&index, is_sure)?;
                if chosen.is_none() {
                    self.documents.pop();
                }
                Ok(chosen)
            }
        }
    }

    fn choose(&mut self, index: &Index, is_sure: bool) -> Result<Option<(Manifest, Descriptor)>, Error> {
        if self.documents.len() > MAX_DEPTH {
            let message = format!("indexes within indexes, more than {MAX_DEPTH} deep");
            return Err(Error::new(ErrorKind::InvalidManifest, message).with_phase(Phase::Manifest));
        }
        let platform = &self.session.service.settings.platform;
        self.lacking = platform.choose(index).err().or(self.lacking.take());
        let is_root = self.documents.len() == 1;
        for entry in platform.candidates(index) {
            let is_sure = entry.platform.is_some() || (is_sure && !is_root);
            let found = document::by_digest(self.session, &entry.digest, Some(entry), MAX_DOCUMENT_BYTES)?;
            if let Some(chosen) = self.descend(found, is_sure)? {
                return Ok(Some(chosen));
            }
        }
        Ok(None)
    }

    /// Why nothing was found.
    fn nothing(self) -> Error {
        let platform = &self.session.service.settings.platform;
        self.lacking.unwrap_or_else(|| {
            let message = format!("no entry names its platform, and no config is for {platform}");
            Error::new(ErrorKind::NoMatchingPlatform, message)
        })
    }

    /// Whether a manifest that no index spoke for is for this platform.
    fn is_by_its_config_for_us(&mut self, config: &Descriptor) -> Result<bool, Error> {
        self.doubtful += 1;
        if self.doubtful > MAX_DOUBTFUL {
            return Ok(false);
        }
        let platform = ImageConfig::parse(&document::blob(self.session, config, Phase::Config)?)
            .map_err(|error| error.with_phase(Phase::Config))?
            .platform;
        Ok(self.session.service.settings.platform.preference(&platform).is_some())
    }
}

/// Refuses what would be refused later, before any blob is fetched.
fn check(service: &Service, manifest: &Manifest) -> Result<(), Error> {
    let refuse = |what: String| Err(Error::new(ErrorKind::InvalidManifest, what).with_phase(Phase::Manifest));
    if manifest.config.size > MAX_DOCUMENT_BYTES as u64 {
        return refuse(format!(
            "config.size: is {}, and at most {MAX_DOCUMENT_BYTES} is read",
            manifest.config.size
        ));
    }
    let (total, limit) = (manifest.total_size(), service.settings.max_image_size);
    if total > limit {
        return refuse(format!("the image is {total} bytes, and at most {limit} are allowed"));
    }
    Ok(())
}

fn report(session: &PullSession<'_>, fetched: &Fetched, manifest: &Manifest) {
    session.cx.report(&ProgressEvent::Resolved {
        host: fetched.host.as_deref().unwrap_or("the store"),
        manifest: &fetched.descriptor.digest,
        blobs: manifest.blobs().len(),
        bytes: manifest.total_size(),
    });
}
