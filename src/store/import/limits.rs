//! The limits of one import.

use crate::context::PullContext;
use crate::error::Error;
use crate::image::platform::Platform;
use crate::store::import::error::invalid;

/// How many descriptors the documents of one import may have in all: entries of an index, manifests,
/// configs, layers, and names.
const MAX_DESCRIPTORS: usize = 100_000;
/// How many bytes the names and paths of one import may have in all.
const MAX_NAME_BYTES: usize = 16 << 20;

/// What an import has used up.
#[derive(Debug, Default)]
pub(super) struct Limits {
    descriptors: usize,
    name_bytes: usize,
}

impl Limits {
    /// Counts descriptors that are about to be looked at.
    ///
    /// # Errors
    /// `InvalidManifest` if they are too many; `Cancelled`, `Timeout`.
    pub(super) fn count(&mut self, cx: &PullContext, descriptors: usize) -> Result<(), Error> {
        cx.check()?;
        self.descriptors = self.descriptors.saturating_add(descriptors);
        match self.descriptors > MAX_DESCRIPTORS {
            true => Err(invalid(format!(
                "its documents have more than {MAX_DESCRIPTORS} descriptors and names in all; import fewer \
                 images at once"
            ))),
            false => Ok(()),
        }
    }

    /// Counts a name or a path that is kept.
    ///
    /// # Errors
    /// `InvalidManifest` if they are too long together.
    pub(super) fn keep(&mut self, text: &str) -> Result<(), Error> {
        self.name_bytes = self.name_bytes.saturating_add(text.len());
        match self.name_bytes > MAX_NAME_BYTES {
            true => {
                Err(invalid(format!("its names and paths are longer than {MAX_NAME_BYTES} bytes in all")))
            }
            false => Ok(()),
        }
    }

    /// Counts a platform that is kept.
    ///
    /// # Errors
    /// `InvalidManifest` if there is too much text in all.
    pub(super) fn keep_platform(&mut self, platform: &Platform) -> Result<(), Error> {
        let Platform { os, architecture, variant, os_version, os_features } = platform;
        let more = variant.iter().chain(os_version).chain(os_features);
        [os, architecture].into_iter().chain(more).try_for_each(|text| self.keep(text))
    }
}
