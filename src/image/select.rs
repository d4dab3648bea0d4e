//! Choosing the entry of an index for a platform.

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
            .manifests
            .iter()
            .filter(|entry| {
                media_type::is_manifest(&entry.media_type) || media_type::is_index(&entry.media_type)
            })
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
    /// `NoMatchingPlatform`, with the platforms that the index has.
    pub fn choose<'a>(&self, index: &'a Index) -> Result<&'a Descriptor, Error> {
        let best = self.candidates(index).first().copied();
        best.ok_or_else(|| {
            let message = format!("nothing for {self}; there is {}", listed(index));
            Error::new(ErrorKind::NoMatchingPlatform, message)
        })
    }
}

/// Lists the platforms of `index`, each once.
fn listed(index: &Index) -> String {
    let mut platforms: Vec<String> = Vec::new();
    for platform in index.manifests.iter().filter_map(|entry| entry.platform.as_ref()) {
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
