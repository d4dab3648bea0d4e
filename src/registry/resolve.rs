//! From a reference to the manifest for this platform, verified.

use std::cell::Cell;

use super::Service;
use super::request::{Endpoint, PullSession, Request, Target};
use super::retry::{self, HostAttempts};
use crate::error::{Error, ErrorKind, Phase};
use crate::image::digest::{Algorithm, Digest};
use crate::image::manifest::{
    Descriptor, Document, ImageConfig, Index, MAX_DOCUMENT_BYTES, Manifest, media_type,
};
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

/// A manifest or an index, verified.
pub(super) struct Fetched {
    pub(super) descriptor: Descriptor,
    pub(super) bytes: Vec<u8>,
    document: Document,
    /// The host that gave it; `None` if it was in the store.
    pub(super) host: Option<String>,
}

/// Finds the manifest; asks no host for a digest that the store has.
///
/// # Errors
/// `NotFound`, `Unauthorized` and the like from the hosts; `InvalidManifest`, `Unsupported`,
/// `DigestMismatch`, `NoMatchingPlatform`.
pub(super) fn resolve(session: &PullSession<'_>) -> Result<Resolved, Error> {
    let root = match session.reference.digest() {
        Some(digest) => by_digest(session, digest, None)?,
        None => by_tag(session, session.reference.tag().unwrap_or("latest"))?,
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
            let found = by_digest(self.session, &entry.digest, Some(entry))?;
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
        let platform = ImageConfig::parse(&config_bytes(self.session, config)?)
            .map_err(|error| error.with_phase(Phase::Config))?
            .platform;
        Ok(self.session.service.settings.platform.preference(&platform).is_some())
    }
}

/// The config's bytes, from the store or from a host.
fn config_bytes(session: &PullSession<'_>, config: &Descriptor) -> Result<Vec<u8>, Error> {
    if let Ok(bytes) = session.service.store.document(&config.digest) {
        return Ok(bytes);
    }
    let path = format!("blobs/{}", config.digest);
    let reached = Cell::new(0);
    let host_attempts =
        HostAttempts { phase: Phase::Config, may: |host| host.capabilities.pull, reached: &reached };
    retry::over_hosts(session, &host_attempts, |endpoint| {
        let named = |error: Error| error.with_host(&endpoint.name);
        let request = Request { target: Target::Api(&path), accept: None, range: None, phase: Phase::Config };
        let (mut body, _slot) = session.request(endpoint, request)?.into_body();
        let bytes = body.read_to_end(MAX_DOCUMENT_BYTES).map_err(named)?;
        match config.digest.matches(&bytes) {
            true => Ok(bytes),
            false => {
                let message = format!("the bytes of {} do not hash to it", config.digest);
                Err(named(Error::new(ErrorKind::DigestMismatch, message)))
            }
        }
    })
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

/// A tag may move, so a host is asked each time; one that may say what tags stand for.
fn by_tag(session: &PullSession<'_>, tag: &str) -> Result<Fetched, Error> {
    let path = format!("manifests/{tag}");
    let reached = Cell::new(0);
    let host_attempts =
        HostAttempts { phase: Phase::Manifest, may: |host| host.capabilities.resolve, reached: &reached };
    retry::over_hosts(session, &host_attempts, |endpoint| fetch(session, endpoint, &path, None, None))
}

/// A digest stands for the same bytes for ever.
fn by_digest(
    session: &PullSession<'_>,
    digest: &Digest,
    described: Option<&Descriptor>,
) -> Result<Fetched, Error> {
    if let Ok(bytes) = session.service.store.document(digest) {
        return verified(None, bytes, None, Some(digest), described);
    }
    let path = format!("manifests/{digest}");
    let reached = Cell::new(0);
    let host_attempts =
        HostAttempts { phase: Phase::Manifest, may: |host| host.capabilities.pull, reached: &reached };
    retry::over_hosts(session, &host_attempts, |endpoint| {
        fetch(session, endpoint, &path, Some(digest), described)
    })
}

fn fetch(
    session: &PullSession<'_>,
    endpoint: &Endpoint,
    path: &str,
    digest: Option<&Digest>,
    described: Option<&Descriptor>,
) -> Result<Fetched, Error> {
    let named = |error: Error| error.with_phase(Phase::Manifest).with_host(&endpoint.name);
    let request = Request {
        target: Target::Api(path),
        accept: Some(media_type::ACCEPT),
        range: None,
        phase: Phase::Manifest,
    };
    let answer = session.request(endpoint, request)?;
    let content_type = answer.reply.header("content-type").map(ToOwned::to_owned);
    let (mut body, _slot) = answer.into_body();
    let bytes = body.read_to_end(MAX_DOCUMENT_BYTES).map_err(named)?;
    verified(content_type.as_deref(), bytes, Some(&endpoint.name), digest, described).map_err(named)
}

/// Compares the bytes, and never a header, with the digest; then reads them.
fn verified(
    content_type: Option<&str>,
    bytes: Vec<u8>,
    host: Option<&str>,
    digest: Option<&Digest>,
    described: Option<&Descriptor>,
) -> Result<Fetched, Error> {
    let actual = Digest::of(digest.map_or(Algorithm::Sha256, Digest::algorithm), &bytes);
    if let Some(expected) = digest.filter(|expected| **expected != actual) {
        return Err(Error::new(ErrorKind::DigestMismatch, format!("asked for {expected}, and got {actual}")));
    }
    if let Some(described) = described.filter(|described| described.size != bytes.len() as u64) {
        let message = format!("{actual} is {} bytes, not {} as its index says", bytes.len(), described.size);
        return Err(Error::new(ErrorKind::InvalidManifest, message));
    }
    let document = match described {
        Some(descriptor) => Document::parse_described(descriptor, content_type, &bytes)?,
        None => Document::parse(content_type, &bytes)?,
    };
    let descriptor = Descriptor::new(document.media_type(), actual, bytes.len() as u64);
    Ok(Fetched { descriptor, bytes, document, host: host.map(ToOwned::to_owned) })
}
