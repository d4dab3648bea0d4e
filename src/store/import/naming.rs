//! Gives imported images their names: what `index.json` is to list.

use std::collections::{HashMap, HashSet};

use crate::error::Error;
use crate::image::digest::Digest;
use crate::image::manifest::{Descriptor, Index as ImageIndex, media_type};
use crate::image::platform::Platform;
use crate::image::quoted;
use crate::store::import::catalog::{Taken, TakenManifest};
use crate::store::import::docker::NamedImage;
use crate::store::import::error::invalid;
use crate::store::import::session::Import;
use crate::store::index::IndexEntry;
use crate::store::names;

/// What a name, or none, is to stand for.
#[derive(Clone, Debug)]
pub(super) struct NameTarget {
    pub(super) descriptor: Descriptor,
    /// Its id, if it is one image.
    id: Option<Digest>,
    /// The index that it was chosen from.
    chosen_from: Option<Digest>,
    /// The manifests that were taken of an index, if not all were.
    pub(super) taken: Option<Vec<Digest>>,
}

impl NameTarget {
    /// Returns the digest of the root that it was taken of.
    pub(super) fn root(&self) -> &Digest {
        self.chosen_from.as_ref().unwrap_or(&self.descriptor.digest)
    }

    /// Returns the entry by which `name` stands for it.
    pub(super) fn entry(&self, name: Option<&str>) -> IndexEntry {
        let repository = name.filter(|name| name.contains('/')).map(names::repository_of);
        let repo_digest = match (&self.chosen_from, repository) {
            (Some(index), Some(repository)) => Some(format!("{repository}@{index}")),
            _ => None,
        };
        let taken = self.taken.as_deref();
        IndexEntry::with_taken(name, &self.descriptor, self.id.as_ref(), repo_digest.as_deref(), taken)
    }
}

impl Import<'_> {
    /// Returns what is to be listed: each name once, and what has none.
    ///
    /// # Errors
    /// `InvalidManifest` if a name stands for two images of one platform.
    pub(super) fn name_all(
        &mut self,
        images: &[NamedImage],
    ) -> Result<Vec<(Option<String>, NameTarget)>, Error> {
        let mut by_name: HashMap<&str, (Vec<&Taken>, HashSet<&Digest>)> = HashMap::new();
        let mut has_name: HashSet<&Digest> = HashSet::new();
        for NamedImage { names, taken } in images {
            for name in names {
                has_name.insert(&taken.root.digest);
                let (same, roots) = by_name.entry(name).or_default();
                if roots.insert(&taken.root.digest) {
                    same.push(taken);
                }
            }
        }
        let mut named = Vec::new();
        for NamedImage { names, taken } in images {
            self.cx.check()?;
            for name in names {
                match by_name.remove(&**name).as_ref().map(|(same, _)| &same[..]) {
                    // It was given already.
                    None => {}
                    Some([only]) => named.push((Some(name.clone()), self.target(only))),
                    Some(several) => named.push((Some(name.clone()), self.merged(name, several)?)),
                }
            }
            if names.is_empty() && has_name.insert(&taken.root.digest) {
                named.push((None, self.target(taken)));
            }
        }
        Ok(named)
    }

    /// Returns what to list: the root, or instead of an index of which one manifest was taken, that one.
    fn target(&self, taken: &Taken) -> NameTarget {
        let [only] = &taken.manifests[..] else { return whole_index(taken) };
        if only.descriptor.digest == taken.root.digest {
            let (descriptor, id) = (taken.root.clone(), Some(only.id.clone()));
            return NameTarget { descriptor, id, chosen_from: None, taken: None };
        }
        let platform = &self.store.0.settings.platform;
        let is_ours = only.platform.as_ref().is_some_and(|it| platform.preference(it).is_some());
        if !is_ours && self.options.platform.is_none() && taken.listed > 1 {
            return whole_index(taken);
        }
        NameTarget {
            descriptor: plain(only),
            id: Some(only.id.clone()),
            chosen_from: Some(taken.root.digest.clone()),
            taken: None,
        }
    }

    /// Returns what a name of several stands for: an index that has all of them, or else one that is made,
    /// if they are for different platforms.
    fn merged(&mut self, name: &str, several: &[&Taken]) -> Result<NameTarget, Error> {
        let all: HashSet<_> =
            several.iter().flat_map(|taken| images_of(taken)).map(|part| &part.descriptor.digest).collect();
        if let Some(index) = several.iter().find(|taken| images_of(taken).count() == all.len()) {
            return Ok(self.target(index));
        }
        let mut by_platform: HashMap<Platform, &TakenManifest> = HashMap::new();
        for part in several.iter().flat_map(|taken| images_of(taken)) {
            self.cx.check()?;
            let platform = part.platform.clone().unwrap_or_default().normalized();
            let other = by_platform.insert(platform.clone(), part);
            if let Some(other) = other.filter(|other| other.descriptor.digest != part.descriptor.digest) {
                return Err(invalid(format!(
                    "the name {} stands for {} and for {}, both for the platform {}",
                    quoted(name),
                    other.descriptor.digest,
                    part.descriptor.digest,
                    quoted(&platform.to_string())
                )));
            }
        }
        let mut parts: Vec<_> = by_platform.into_iter().collect();
        parts.sort_by_key(|(platform, part)| (platform.to_string(), part.descriptor.digest.clone()));
        let index = ImageIndex::new(parts.into_iter().map(|(_, part)| plain(part)).collect());
        let text = index.to_json();
        let descriptor = Descriptor::new(media_type::OCI_INDEX, Digest::sha256(&text), text.len() as u64);
        self.copy(&descriptor, &mut &text[..])?;
        Ok(NameTarget { descriptor, id: None, chosen_from: None, taken: None })
    }
}

fn images_of(taken: &Taken) -> impl Iterator<Item = &TakenManifest> {
    taken.manifests.iter().filter(|part| !part.is_attestation)
}

fn whole_index(taken: &Taken) -> NameTarget {
    let digests = || taken.manifests.iter().map(|part| part.descriptor.digest.clone()).collect();
    NameTarget {
        descriptor: plain_root(&taken.root),
        id: None,
        chosen_from: None,
        taken: taken.is_sparse.then(digests),
    }
}

/// Returns a descriptor of the digest, size, type and platform alone.
fn plain(part: &TakenManifest) -> Descriptor {
    let TakenManifest { descriptor, platform, .. } = part;
    let plain = Descriptor::new(&descriptor.media_type, descriptor.digest.clone(), descriptor.size);
    Descriptor { platform: platform.clone(), ..plain }
}

fn plain_root(root: &Descriptor) -> Descriptor {
    Descriptor::new(&root.media_type, root.digest.clone(), root.size)
}
