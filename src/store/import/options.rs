//! How images are imported, and what an import answers.

use std::sync::Arc;

use crate::image::digest::Digest;
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::store::signatures::ImportJudge;

/// How images are imported.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    pub(super) name: Option<Reference>,
    pub(super) platform: Option<Platform>,
    pub(super) judge: Option<Arc<dyn ImportJudge>>,
}

impl ImportOptions {
    /// Makes options with the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the name of the one image that is imported, in place of the archive's. Default: the archive's.
    #[must_use]
    pub fn name(mut self, name: Reference) -> Self {
        self.name = Some(name);
        self
    }

    /// Sets the one platform whose images are taken. Default: all that are whole, and at least the one for
    /// the store's platform if the archive has its manifest.
    #[must_use]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// Asks `judge` about each image before it is listed.
    #[cfg(feature = "signatures")]
    pub(crate) fn judge(mut self, judge: Arc<dyn ImportJudge>) -> Self {
        self.judge = Some(judge);
        self
    }
}

/// What an import brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Imported {
    /// The images' names, each once; of an image without one, the digest of its manifest or index.
    pub names: Vec<String>,
    /// The images of other platforms that were listed and left out, because they were not there, not
    /// whole, or not asked for.
    pub left_out: Vec<SkippedImage>,
}

/// An image that an import left out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SkippedImage {
    /// The digest of its manifest.
    pub digest: Digest,
    /// What it is for, as far as that is known.
    pub platform: Option<Platform>,
}
