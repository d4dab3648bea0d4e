//! Which images a layout's index leads to, and which of them are whole.
//!
//! Each manifest and each index is read once, however often it is listed. What an image index lists may
//! be missing in part, for tools copy single platforms: whole images are taken, the others left out.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use crate::context::PullContext;
use crate::error::Error;
use crate::image::config::ImageConfig;
use crate::image::digest::Digest;
use crate::image::manifest::{Descriptor, Document, Index, MAX_INDEX_DEPTH, Manifest, media_type};
use crate::image::platform::Platform;
use crate::store::children::{ATTESTATION, Child, is_attestation};
use crate::store::import::error::{invalid, lacking};
use crate::store::import::limits::Limits;
use crate::store::import::options::SkippedImage;
use crate::store::import::session::Import;
use crate::store::import::source::ImportSource;

/// The configs of what is stored like an image, and is none.
const OTHER_CONFIGS: [&str; 2] =
    ["application/vnd.oci.empty.v1+json", "application/vnd.buildkit.cacheconfig.v0"];

/// What an entry of a layout's index leads to, as far as it is taken.
#[derive(Debug)]
pub(super) struct Taken {
    /// What the entry lists.
    pub(super) root: Descriptor,
    /// The root, if it is an index, and the indexes that it lists.
    pub(super) indexes: Vec<Descriptor>,
    /// The manifests that are taken.
    pub(super) manifests: Vec<TakenManifest>,
    /// How many images the root lists, there or not.
    pub(super) listed: usize,
    /// Whether the root lists manifests that are not taken.
    pub(super) is_sparse: bool,
    pub(super) left_out: Vec<SkippedImage>,
}

impl Taken {
    /// Makes one of a single image, that no index lists.
    pub(super) fn image(part: TakenManifest) -> Self {
        Taken { manifests: vec![part.clone()], ..Taken::nothing(part.descriptor) }
    }

    fn nothing(root: Descriptor) -> Self {
        Taken {
            root,
            indexes: Vec::new(),
            manifests: Vec::new(),
            listed: 1,
            is_sparse: false,
            left_out: Vec::new(),
        }
    }
}

/// A manifest that is taken.
#[derive(Clone, Debug)]
pub(super) struct TakenManifest {
    pub(super) descriptor: Descriptor,
    /// The image's id: the digest of its config.
    pub(super) id: Digest,
    pub(super) platform: Option<Platform>,
    pub(super) is_attestation: bool,
}

/// What became of a manifest.
#[derive(Clone, Debug)]
enum Availability {
    /// It is not there.
    Absent,
    /// It is there, and a blob of it is not.
    Incomplete {
        missing: Digest,
        platform: Option<Platform>,
        is_image: bool,
    },
    Whole {
        id: Digest,
        platform: Option<Platform>,
        is_image: bool,
    },
}

impl Availability {
    fn platform(&self) -> Option<&Platform> {
        match self {
            Availability::Absent => None,
            Availability::Incomplete { platform, .. } | Availability::Whole { platform, .. } => {
                platform.as_ref()
            }
        }
    }
}

/// Reads the documents of one import.
pub(super) struct Catalog<'a, 's, S> {
    cx: &'a PullContext,
    import: &'a Import<'s>,
    source: &'a S,
    limits: &'a mut Limits,
    /// The platform that was asked for, and that alone is taken.
    asked: Option<&'a Platform>,
    /// That, or the store's.
    platform: Platform,
    found: HashMap<Digest, Availability>,
    /// What each index lists; `None` if it is not there.
    indexes: HashMap<Digest, Option<Rc<[Descriptor]>>>,
}

impl<'a, 's, S: ImportSource> Catalog<'a, 's, S> {
    pub(super) fn new(
        cx: &'a PullContext,
        import: &'a Import<'s>,
        source: &'a S,
        limits: &'a mut Limits,
        asked: Option<&'a Platform>,
    ) -> Self {
        let platform = asked.unwrap_or(&import.store.0.settings.platform).clone();
        Catalog {
            cx,
            import,
            source,
            limits,
            asked,
            platform,
            found: HashMap::new(),
            indexes: HashMap::new(),
        }
    }

    /// Returns what is taken of that which an entry lists, or what is left out of it. `None` if it is no
    /// image.
    ///
    /// # Errors
    /// `NotFound` if an image for the platform is there and not whole, or nothing is there;
    /// `InvalidManifest` and the like for what is wrong.
    pub(super) fn take(&mut self, listed: &Descriptor, has_name: bool) -> Result<Option<Taken>, Error> {
        let mut root = listed.clone();
        if root.media_type.is_empty() {
            match self.type_of(&root)? {
                Some(media_type) => root.media_type = media_type,
                None => return Ok(None),
            }
        }
        if media_type::is_index(&root.media_type) {
            self.take_index(root)
        } else if media_type::is_manifest(&root.media_type) {
            self.take_manifest(root, has_name)
        } else {
            Ok(None)
        }
    }

    /// Returns the media type of a document that is listed without one.
    fn type_of(&mut self, listed: &Descriptor) -> Result<Option<String>, Error> {
        self.limits.count(self.cx, 1)?;
        let bytes = self.source.document(self.import, listed)?.ok_or_else(|| lacking(&listed.digest))?;
        Ok(Document::parse(None, &bytes).ok().map(|document| document.media_type().to_owned()))
    }

    fn take_manifest(&mut self, root: Descriptor, has_name: bool) -> Result<Option<Taken>, Error> {
        let found = self.manifest(&root)?;
        let platform = root.platform.as_ref().or(found.platform()).cloned();
        let fits = platform.as_ref().is_none_or(|it| self.platform.preference(it).is_some());
        let nothing = |root: Descriptor| {
            let left_out = vec![SkippedImage { digest: root.digest.clone(), platform: platform.clone() }];
            Taken { root, indexes: Vec::new(), manifests: Vec::new(), listed: 1, is_sparse: false, left_out }
        };
        match found {
            Availability::Absent => Err(lacking(&root.digest)),
            Availability::Incomplete { is_image: true, missing, .. } if fits => Err(lacking(&missing)),
            Availability::Incomplete { .. } => Ok(Some(nothing(root))),
            Availability::Whole { .. } if self.asked.is_some() && !fits => Ok(Some(nothing(root))),
            Availability::Whole { is_image: false, .. } if !has_name => Ok(None),
            Availability::Whole { id, .. } => Ok(Some(Taken::image(TakenManifest {
                descriptor: root,
                id,
                platform,
                is_attestation: false,
            }))),
        }
    }

    fn take_index(&mut self, root: Descriptor) -> Result<Option<Taken>, Error> {
        if self.index(&root)?.is_none() {
            return Err(lacking(&root.digest));
        }
        let (indexes, listed) = self.flatten(&root)?;
        let mut parts = Vec::new();
        for descriptor in listed {
            let found = self.manifest(&descriptor)?;
            parts.push((descriptor, found));
        }
        let is_image = |descriptor: &Descriptor| !is_attestation(descriptor);
        let listed = parts.iter().filter(|(descriptor, _)| is_image(descriptor)).count();
        if listed == 0 {
            return Ok(None);
        }
        let best = self.best(&parts);
        if let Some((_, Availability::Incomplete { missing, .. })) = best {
            return Err(lacking(missing));
        }
        let best = best.map(|(descriptor, _)| descriptor.digest.clone());
        let is_asked_for = |digest: &Digest| self.asked.is_none() || best.as_ref() == Some(digest);
        let (mut manifests, mut left_out) = (Vec::new(), Vec::new());
        let mut images = HashSet::new();
        for (descriptor, found) in parts.iter().filter(|(descriptor, _)| is_image(descriptor)) {
            let platform = descriptor.platform.as_ref().or(found.platform()).cloned();
            match found {
                Availability::Whole { id, .. } if is_asked_for(&descriptor.digest) => {
                    images.insert(descriptor.digest.clone());
                    let (descriptor, id) = (descriptor.clone(), id.clone());
                    manifests.push(TakenManifest { descriptor, id, platform, is_attestation: false });
                }
                _ => left_out.push(SkippedImage { digest: descriptor.digest.clone(), platform }),
            }
        }
        // What is said about an image goes with it.
        for (descriptor, found) in parts.iter().filter(|(descriptor, _)| !is_image(descriptor)) {
            let about = Child::listed(descriptor).about;
            if let Availability::Whole { id, .. } = found
                && about.is_none_or(|about| images.contains(&about))
            {
                let (descriptor, id) = (descriptor.clone(), id.clone());
                manifests.push(TakenManifest { descriptor, id, platform: None, is_attestation: true });
            }
        }
        if images.is_empty() {
            manifests.clear();
        }
        let is_sparse = manifests.len() < parts.len();
        Ok(Some(Taken { root, indexes, manifests, listed, is_sparse, left_out }))
    }

    /// Returns the image that serves the platform best, of those whose manifests are there.
    fn best<'p>(&self, parts: &'p [(Descriptor, Availability)]) -> Option<&'p (Descriptor, Availability)> {
        let served = parts.iter().filter_map(|part| {
            let (descriptor, found) = part;
            if is_attestation(descriptor) || matches!(found, Availability::Absent) {
                return None;
            }
            let platform = descriptor.platform.as_ref().or(found.platform())?;
            Some((self.platform.preference(platform)?, part))
        });
        served.min_by_key(|(preference, _)| *preference).map(|(_, part)| part)
    }

    /// Returns the indexes that are there, from the root on, and the manifests that they list.
    fn flatten(&mut self, root: &Descriptor) -> Result<(Vec<Descriptor>, Vec<Descriptor>), Error> {
        let (mut indexes, mut manifests) = (Vec::new(), Vec::new());
        let mut seen = HashSet::from([root.digest.clone()]);
        let mut ahead = vec![(root.clone(), 0)];
        while let Some((descriptor, depth)) = ahead.pop() {
            let Some(index) = self.index(&descriptor)? else { continue };
            // Each time, not once for each document: many roots may list the same one.
            self.limits.count(self.cx, index.len())?;
            indexes.push(descriptor);
            let mut nested = Vec::new();
            for listed in index.iter().filter(|listed| seen.insert(listed.digest.clone())) {
                if media_type::is_manifest(&listed.media_type) {
                    manifests.push(listed.clone());
                } else if media_type::is_index(&listed.media_type) {
                    if depth == MAX_INDEX_DEPTH {
                        return Err(invalid(format!("indexes are nested deeper than {MAX_INDEX_DEPTH}")));
                    }
                    nested.push((listed.clone(), depth + 1));
                }
            }
            ahead.extend(nested.into_iter().rev());
        }
        Ok((indexes, manifests))
    }

    /// Reads an index; `None` if it is not there.
    fn index(&mut self, listed: &Descriptor) -> Result<Option<Rc<[Descriptor]>>, Error> {
        if let Some(known) = self.indexes.get(&listed.digest) {
            return Ok(known.clone());
        }
        self.limits.count(self.cx, 1)?;
        let index = match self.source.document(self.import, listed)? {
            None => None,
            Some(bytes) => match Document::parse_described(listed, None, &bytes)? {
                Document::Index(index) => Some(self.kept(index)?),
                Document::Manifest(_) => {
                    return Err(invalid(format!("{} is a manifest, and listed as an index", listed.digest)));
                }
            },
        };
        self.indexes.insert(listed.digest.clone(), index.clone());
        Ok(index)
    }

    /// Returns what an index lists, without what no import needs.
    fn kept(&mut self, index: Index) -> Result<Rc<[Descriptor]>, Error> {
        let mut kept = Vec::with_capacity(index.manifests.len());
        for mut descriptor in index.manifests {
            descriptor.urls.clear();
            descriptor.data = None;
            descriptor.artifact_type = None;
            descriptor.annotations.retain(|key, _| ATTESTATION.contains(&&**key));
            self.limits.keep(&descriptor.media_type)?;
            descriptor.annotations.values().try_for_each(|value| self.limits.keep(value))?;
            if let Some(platform) = &descriptor.platform {
                self.limits.keep_platform(platform)?;
            }
            kept.push(descriptor);
        }
        Ok(kept.into())
    }

    /// Reads a manifest, and looks for its blobs.
    fn manifest(&mut self, listed: &Descriptor) -> Result<Availability, Error> {
        if let Some(known) = self.found.get(&listed.digest) {
            return Ok(known.clone());
        }
        self.limits.count(self.cx, 1)?;
        let found = match self.source.document(self.import, listed)? {
            None => Availability::Absent,
            Some(bytes) => match Document::parse_described(listed, None, &bytes)? {
                Document::Manifest(manifest) => self.look_for_blobs(listed, &manifest)?,
                Document::Index(_) => {
                    return Err(invalid(format!("{} is an index, and listed as a manifest", listed.digest)));
                }
            },
        };
        self.found.insert(listed.digest.clone(), found.clone());
        Ok(found)
    }

    fn look_for_blobs(&mut self, listed: &Descriptor, manifest: &Manifest) -> Result<Availability, Error> {
        let blobs = manifest.blobs();
        self.limits.count(self.cx, blobs.len())?;
        let mut missing = None;
        for blob in blobs {
            self.cx.check()?;
            if !self.source.has(self.import, blob)? {
                missing = Some(blob.digest.clone());
                break;
            }
        }
        let config = &manifest.config;
        let has_image_config = media_type::is_image_config(&config.media_type);
        let mut platform = None;
        if has_image_config && missing.as_ref() != Some(&config.digest) {
            let bytes = self.source.document(self.import, config)?;
            let config = bytes.map(|bytes| ImageConfig::parse(&bytes)).transpose()?;
            platform = config.map(|config| config.platform).filter(|platform| !platform.os.is_empty());
            platform.iter().try_for_each(|platform| self.limits.keep_platform(platform))?;
        }
        let is_artifact = manifest.artifact_type.is_some() || OTHER_CONFIGS.contains(&&*config.media_type);
        let is_image = has_image_config || !is_artifact;
        Ok(match missing {
            Some(missing) => Availability::Incomplete { missing, platform, is_image },
            None => Availability::Whole { id: manifest.image_id(&listed.digest).clone(), platform, is_image },
        })
    }
}
