//! From a reference to the verified manifests of a pull.

use std::collections::HashSet;

use super::client::Service;
use super::document::{self, FetchedDocument, SmallBlob};
use super::request::PullSession;
use super::settings::Selection;
use crate::error::{Error, ErrorKind, Phase};
use crate::image::config;
use crate::image::digest::Digest;
use crate::image::manifest::{Descriptor, Document, Index, MAX_DOCUMENT_BYTES, Manifest};
use crate::image::platform::Platform;
use crate::image::quoted;
use crate::image::size::Size;
use crate::progress::ProgressEvent;

/// Maximum depth of indexes within indexes.
const MAX_DEPTH: usize = 4;

/// Maximum number of manifests and indexes that are fetched to find one.
const MAX_DOCUMENTS: usize = 128;

/// Maximum number of entries without a platform that are fetched to find out what they are for.
const MAX_PROBES: usize = 32;

/// What a reference names, for one platform.
pub(super) struct Resolved {
    /// What the reference names: the manifest, or the index that it was chosen from.
    pub(super) root: Descriptor,
    pub(super) manifest: Manifest,
    pub(super) manifest_descriptor: Descriptor,
    /// The indexes on the way, and the manifest: the bytes that the digests are of.
    pub(super) documents: Vec<FetchedDocument>,
    /// The config, if it had to be read to tell the platform.
    pub(super) config: Option<SmallBlob>,
}

impl Resolved {
    /// Returns the image's id.
    pub(super) fn id(&self) -> &Digest {
        self.manifest.image_id(&self.manifest_descriptor.digest)
    }

    /// Returns what the image is for, as its index or the config that was read says.
    pub(super) fn platform(&self) -> Option<Platform> {
        let by_digest = |entry: &&Descriptor| entry.digest == self.manifest_descriptor.digest;
        let listed = self.documents.iter().rev().find_map(|fetched| match &fetched.document {
            Document::Index(index) => index.manifests.iter().find(by_digest),
            Document::Manifest(_) => None,
        });
        let of_config = || config::platform_of(&self.config.as_ref()?.bytes).ok();
        listed.and_then(|entry| entry.platform.clone()).or_else(of_config)
    }

    /// Whether the platform was chosen from an index, or was compared with the config.
    pub(super) fn is_platform_known(&self) -> bool {
        self.documents.len() > 1 || self.config.is_some()
    }
}

/// Finds the manifests of a pull, at least one: that for the platform, or those for several platforms. No host is
/// asked for a digest that the store has. `artifact_type` selects one artifact instead of images.
///
/// # Errors
/// `NotFound`, `Unauthorized` and the like from the hosts; `InvalidManifest`, `Unsupported`,
/// `DigestMismatch`, `NoMatchingPlatform`.
pub(super) fn resolve(
    session: &PullSession<'_>,
    artifact_type: Option<&str>,
) -> Result<Vec<Resolved>, Error> {
    let root = match session.reference.digest() {
        Some(digest) => document::by_digest(session, digest, None, MAX_DOCUMENT_BYTES)?,
        None => {
            let tag = session.reference.tag().unwrap_or("latest");
            document::by_tag(session, tag, MAX_DOCUMENT_BYTES)?
        }
    };
    let settings = &session.service.settings;
    let found = match &settings.selection {
        Selection::Several(platforms) if artifact_type.is_none() => several(session, &root, platforms),
        Selection::All if artifact_type.is_none() && matches!(root.document, Document::Index(_)) => {
            all(session, &root)
        }
        _ => {
            ManifestSearch::new(session, artifact_type, &settings.platform).run(root).map(|found| vec![found])
        }
    };
    found.map_err(|error| error.with_phase(Phase::Manifest))
}

/// Finds the manifests for several platforms, each once.
fn several(
    session: &PullSession<'_>,
    root: &FetchedDocument,
    platforms: &[Platform],
) -> Result<Vec<Resolved>, Error> {
    let mut images: Vec<Resolved> = Vec::new();
    for platform in platforms {
        let found = ManifestSearch::new(session, None, platform).run(root.clone())?;
        let is_same = |other: &Resolved| other.manifest_descriptor.digest == found.manifest_descriptor.digest;
        if !images.iter().any(is_same) {
            images.push(found);
        }
    }
    Ok(images)
}

/// Finds all manifests that an index lists, itself or through others.
fn all(session: &PullSession<'_>, root: &FetchedDocument) -> Result<Vec<Resolved>, Error> {
    let (mut images, mut visited) = (Vec::new(), HashSet::from([root.descriptor.digest.clone()]));
    let mut ahead = vec![vec![root.clone()]];
    while let Some(way) = ahead.pop() {
        let Some(Document::Index(index)) = way.last().map(|last| &last.document) else { continue };
        let mut nested = Vec::new();
        for entry in index.documents() {
            session.cx.check()?;
            if !visited.insert(entry.digest.clone()) {
                continue;
            }
            if visited.len() > MAX_DOCUMENTS {
                let message = format!("the index lists more than {MAX_DOCUMENTS} manifests and indexes");
                return Err(Error::new(ErrorKind::InvalidManifest, message));
            }
            let found = document::by_digest(session, &entry.digest, Some(entry), MAX_DOCUMENT_BYTES)?;
            let documents = [&way[..], std::slice::from_ref(&found)].concat();
            match found.document.clone() {
                Document::Manifest(manifest) => {
                    check(session.service, &manifest)?;
                    report(session, &found, &manifest);
                    images.push(Resolved {
                        root: root.descriptor.clone(),
                        manifest,
                        manifest_descriptor: found.descriptor,
                        documents,
                        config: None,
                    });
                }
                Document::Index(_) if documents.len() > MAX_DEPTH => return Err(too_deep()),
                Document::Index(_) => nested.push(documents),
            }
        }
        ahead.extend(nested.into_iter().rev());
    }
    if images.is_empty() {
        return Err(Error::new(ErrorKind::InvalidManifest, "the index lists no manifest"));
    }
    // The one for this platform comes first.
    let wanted = &session.service.settings.platform;
    images.sort_by_key(|image| {
        let preference = image.platform().and_then(|platform| wanted.preference(&platform));
        (preference.is_none(), preference)
    });
    Ok(images)
}

fn too_deep() -> Error {
    let message = format!("indexes within indexes, more than {MAX_DEPTH} deep");
    Error::new(ErrorKind::InvalidManifest, message)
}

/// The origin of a document, which tells what is known of its platform.
#[derive(Clone, Copy, PartialEq, Eq)]
enum EntryOrigin {
    /// The reference.
    Root,
    /// An entry that names a platform which fits, or an entry below such an index.
    Platform,
    /// The only entry of its index, without a platform.
    OnlyEntry,
    /// An entry without a platform.
    Unnamed,
}

/// A walk through indexes to the manifest.
struct ManifestSearch<'a, 'r> {
    session: &'a PullSession<'r>,
    artifact_type: Option<&'a str>,
    platform: &'a Platform,
    /// The indexes on the way, and in the end the manifest.
    documents: Vec<FetchedDocument>,
    visited: HashSet<Digest>,
    /// The number of entries that were fetched.
    fetched: usize,
    /// The number of entries without a platform that were fetched.
    probes: usize,
    /// The reason why the first index has nothing for this platform.
    lacking: Option<Error>,
    /// The types of the artifacts that were skipped.
    artifact_types: Vec<String>,
    /// The config of the manifest that was found, if it was read.
    config: Option<SmallBlob>,
}

impl<'a, 'r> ManifestSearch<'a, 'r> {
    fn new(session: &'a PullSession<'r>, artifact_type: Option<&'a str>, platform: &'a Platform) -> Self {
        ManifestSearch {
            session,
            artifact_type,
            platform,
            documents: Vec::new(),
            visited: HashSet::new(),
            fetched: 0,
            probes: 0,
            lacking: None,
            artifact_types: Vec::new(),
            config: None,
        }
    }

    /// Walks from what the reference names to the manifest.
    fn run(mut self, root: FetchedDocument) -> Result<Resolved, Error> {
        let root_descriptor = root.descriptor.clone();
        match self.descend(root, EntryOrigin::Root)? {
            Some((manifest, manifest_descriptor)) => Ok(Resolved {
                root: root_descriptor,
                manifest,
                manifest_descriptor,
                documents: self.documents,
                config: self.config,
            }),
            None => Err(self.nothing()),
        }
    }

    /// Returns the manifest that `found` is or leads to; `None` if that is not what is wanted, which an entry
    /// without a platform may turn out to be.
    fn descend(
        &mut self,
        found: FetchedDocument,
        origin: EntryOrigin,
    ) -> Result<Option<(Manifest, Descriptor)>, Error> {
        match found.document.clone() {
            Document::Manifest(manifest) => {
                check(self.session.service, &manifest)?;
                self.config = None;
                if !self.is_wanted(&manifest, origin)? {
                    return Ok(None);
                }
                report(self.session, &found, &manifest);
                let descriptor = found.descriptor.clone();
                self.documents.push(found);
                Ok(Some((manifest, descriptor)))
            }
            Document::Index(index) => {
                self.documents.push(found);
                let chosen = self.choose(&index, origin)?;
                if chosen.is_none() {
                    self.documents.pop();
                }
                Ok(chosen)
            }
        }
    }

    fn choose(
        &mut self,
        index: &Index,
        origin: EntryOrigin,
    ) -> Result<Option<(Manifest, Descriptor)>, Error> {
        if self.documents.len() > MAX_DEPTH {
            return Err(too_deep());
        }
        let platform = self.platform;
        let candidates = match self.artifact_type {
            Some(artifact_type) => index.of_artifact_type(artifact_type),
            None => {
                self.lacking = platform.choose(index).err().or(self.lacking.take());
                platform.candidates(index)
            }
        };
        for entry in candidates {
            self.session.cx.check()?;
            let origin = match (&entry.platform, origin) {
                (Some(_), _) | (None, EntryOrigin::Platform) => EntryOrigin::Platform,
                (None, _) if index.has_one_entry() => EntryOrigin::OnlyEntry,
                (None, _) => EntryOrigin::Unnamed,
            };
            if self.visited.insert(entry.digest.clone())
                && let Some(chosen) = self.try_entry(entry, origin)?
            {
                return Ok(Some(chosen));
            }
        }
        Ok(None)
    }

    /// Fetches an entry. One that was not chosen by its platform cannot fail the pull: it is skipped if it is wrong.
    fn try_entry(
        &mut self,
        entry: &Descriptor,
        origin: EntryOrigin,
    ) -> Result<Option<(Manifest, Descriptor)>, Error> {
        if origin == EntryOrigin::Unnamed {
            self.probes += 1;
            if self.probes > MAX_PROBES {
                return Ok(None);
            }
        }
        self.fetched += 1;
        if self.fetched > MAX_DOCUMENTS {
            let message = format!("more than {MAX_DOCUMENTS} manifests and indexes lead nowhere");
            return Err(Error::new(ErrorKind::InvalidManifest, message));
        }
        let depth = self.documents.len();
        let found = document::by_digest(self.session, &entry.digest, Some(entry), MAX_DOCUMENT_BYTES);
        match found.and_then(|found| self.descend(found, origin)) {
            Err(error) if origin == EntryOrigin::Unnamed && is_of_entry(error.kind()) => {
                log::debug!("{}: the entry {} is skipped: {error}", self.session.reference, entry.digest);
                self.documents.truncate(depth);
                Ok(None)
            }
            found => found,
        }
    }

    fn is_wanted(&mut self, manifest: &Manifest, origin: EntryOrigin) -> Result<bool, Error> {
        let is_image = manifest.has_image_config();
        if let Some(wanted) = self.artifact_type {
            let artifact_type = manifest.artifact_type.as_ref().unwrap_or(&manifest.config.media_type);
            self.artifact_types.push(artifact_type.clone());
            return Ok(artifact_type == wanted);
        }
        let settings = &self.session.service.settings;
        match origin {
            EntryOrigin::Platform => Ok(true),
            EntryOrigin::Root if is_image && settings.is_platform_explicit => {
                let platform = self.platform_of(&manifest.config)?;
                match self.platform.preference(&platform) {
                    Some(_) => Ok(true),
                    None => Err(other_platform(&platform, self.platform)),
                }
            }
            EntryOrigin::Root => Ok(true),
            EntryOrigin::OnlyEntry if !is_image => Ok(true),
            EntryOrigin::OnlyEntry | EntryOrigin::Unnamed if is_image => {
                let platform = self.platform_of(&manifest.config)?;
                Ok(self.platform.preference(&platform).is_some())
            }
            EntryOrigin::OnlyEntry | EntryOrigin::Unnamed => {
                let artifact_type = manifest.artifact_type.as_ref().unwrap_or(&manifest.config.media_type);
                self.artifact_types.push(artifact_type.clone());
                Ok(false)
            }
        }
    }

    fn platform_of(&mut self, descriptor: &Descriptor) -> Result<Platform, Error> {
        let blob = document::blob(self.session, descriptor, Phase::Config)?;
        let platform = config::platform_of(&blob.bytes).map_err(|error| error.with_phase(Phase::Config))?;
        self.config = Some(blob);
        Ok(platform)
    }

    /// Returns the error of a search without a result.
    fn nothing(mut self) -> Error {
        let platform = self.platform;
        self.artifact_types.sort();
        self.artifact_types.dedup();
        let types = self.artifact_types.iter().take(16).map(|it| quoted(it)).collect::<Vec<_>>().join(", ");
        let message = match (self.artifact_type, self.lacking) {
            (Some(wanted), _) if types.is_empty() => {
                format!("nothing has the artifact type {}", quoted(wanted))
            }
            (Some(wanted), _) => {
                format!("nothing has the artifact type {}; there is {types}", quoted(wanted))
            }
            (None, Some(lacking)) => return lacking,
            (None, None) if types.is_empty() => {
                format!("no entry names its platform, and no config is for {platform}")
            }
            (None, None) => format!("no image is for {platform}; there are artifacts of the types {types}"),
        };
        Error::new(ErrorKind::NoMatchingPlatform, message)
    }
}

/// The error of an image without an index that is for another platform than the one that was asked for.
pub(super) fn other_platform(offered: &Platform, wanted: &Platform) -> Error {
    Error::new(ErrorKind::NoMatchingPlatform, format!("the image is for {offered}, not for {wanted}"))
}

/// Returns whether an error is about an entry of an index, and not about the hosts.
fn is_of_entry(kind: ErrorKind) -> bool {
    use ErrorKind::*;
    matches!(kind, NotFound | InvalidManifest | Unsupported | DigestMismatch | SizeMismatch)
}

/// Checks the limits of a manifest before any blob is fetched.
fn check(service: &Service, manifest: &Manifest) -> Result<(), Error> {
    let refuse = |what: String| Err(Error::new(ErrorKind::InvalidManifest, what));
    if manifest.has_image_config() && manifest.config.size > MAX_DOCUMENT_BYTES as u64 {
        return refuse(format!(
            "config.size: is {}, and at most {MAX_DOCUMENT_BYTES} is read",
            manifest.config.size
        ));
    }
    let (total, limit) = (manifest.total_size(), service.settings.max_image_size);
    if total > limit {
        return refuse(format!("the image has {}, and at most {} are allowed", Size(total), Size(limit)));
    }
    Ok(())
}

fn report(session: &PullSession<'_>, fetched: &FetchedDocument, manifest: &Manifest) {
    session.cx.report(&ProgressEvent::Resolved {
        host: fetched.host.as_deref().unwrap_or("the store").to_owned(),
        manifest: fetched.descriptor.digest.clone(),
        blobs: manifest.blobs().len(),
        bytes: manifest.total_size(),
    });
}
