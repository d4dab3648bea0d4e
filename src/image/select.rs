//! Choosing the entry of an index: by platform, or by artifact type.

use crate::error::{Error, ErrorKind};
use crate::image::manifest::{Descriptor, Index, media_type};
use crate::image::platform::{Platform, Served};

/// How many platforms an error message lists.
const MAX_LISTED: usize = 16;

impl Platform {
    /// Returns the entries of `index` that may run on this platform, the best first; equal ones keep the
    /// index's order. Entries without a platform come last, as in containerd: their config tells whether
    /// they fit. Entries that are neither manifests nor indexes are left out.
    pub fn candidates<'a>(&self, index: &'a Index) -> Vec<&'a Descriptor> {
        let served = Served::by(self);
        let mut candidates: Vec<_> = index
            .documents()
            .filter_map(|entry| match &entry.platform {
                None => Some(((true, None), entry)),
                Some(platform) => served.preference(platform).map(|it| ((false, Some(it)), entry)),
            })
            .collect();
        candidates.sort_by_key(|(preference, _)| *preference);
        candidates.into_iter().map(|(_, entry)| entry).collect()
    }

    /// Returns the entry of `index` that fits this platform best: the first of
    /// [`candidates`](Self::candidates).
    ///
    /// # Errors
    /// [`NoMatchingPlatform`](ErrorKind::NoMatchingPlatform), with the platforms that the index has;
    /// [`Unsupported`](ErrorKind::Unsupported) or [`InvalidManifest`](ErrorKind::InvalidManifest) if the entry for
    /// this platform cannot be used.
    pub fn choose<'a>(&self, index: &'a Index) -> Result<&'a Descriptor, Error> {
        let best = self.candidates(index).first().copied();
        best.ok_or_else(|| self.nothing_in(index))
    }

    fn nothing_in(&self, index: &Index) -> Error {
        let served = Served::by(self);
        let is_for_this = |platform: &Platform| served.preference(platform).is_some();
        let would_do = index.unusable.iter().find(|entry| entry.platform.as_ref().is_none_or(is_for_this));
        match would_do {
            Some(entry) => Error::new(entry.kind, entry.why.clone()),
            None => {
                let message = format!("nothing for {self}; there is {}", listed(index));
                Error::new(ErrorKind::NoMatchingPlatform, message)
            }
        }
    }
}

impl Index {
    /// Returns the entries that are of this artifact type, and then those that do not name theirs: their
    /// manifests tell.
    pub(crate) fn of_artifact_type(&self, artifact_type: &str) -> Vec<&Descriptor> {
        let named = self.documents().filter(|entry| entry.artifact_type.as_deref() == Some(artifact_type));
        named.chain(self.documents().filter(|entry| entry.artifact_type.is_none())).collect()
    }

    /// Returns the entries that are manifests or indexes.
    pub(crate) fn documents(&self) -> impl Iterator<Item = &Descriptor> {
        let is_document = |entry: &&Descriptor| {
            media_type::is_manifest(&entry.media_type) || media_type::is_index(&entry.media_type)
        };
        self.manifests.iter().filter(is_document)
    }

    /// Whether the document lists one entry only.
    pub(crate) fn has_one_entry(&self) -> bool {
        self.manifests.len() + self.unusable.len() == 1
    }
}

/// Lists the platforms of `index`, each once.
fn listed(index: &Index) -> String {
    let mut platforms: Vec<String> = Vec::new();
    let usable = index.manifests.iter().filter_map(|entry| entry.platform.as_ref());
    for platform in usable.chain(index.unusable.iter().filter_map(|entry| entry.platform.as_ref())) {
        let text: String = platform.to_string().chars().take(64).collect();
        if !platforms.contains(&text) {
            if platforms.len() == MAX_LISTED {
                platforms.push("…".to_owned());
                break;
            }
            platforms.push(text);
        }
    }
    if platforms.is_empty() { "nothing at all".to_owned() } else { platforms.join(", ") }
}
