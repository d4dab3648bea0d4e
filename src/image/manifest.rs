//! Descriptors, manifests and indexes: strict and capped parsing.

use std::collections::BTreeMap;

use crate::image::digest::Digest;
use crate::image::platform::Platform;

/// What some bytes are, how many, and their digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The bytes' media type.
    pub media_type: String,
    /// The bytes' digest.
    pub digest: Digest,
    /// How many bytes.
    pub size: u64,
    /// Where else they are to be had.
    pub urls: Vec<String>,
    /// The bytes themselves, where they came along.
    pub data: Option<Vec<u8>>,
    /// What the image is for, in an index.
    pub platform: Option<Platform>,
    /// What kind of artifact it is.
    pub artifact_type: Option<String>,
    /// Anything else that was said of them.
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// A descriptor without the optional parts.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Descriptor {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            data: None,
            platform: None,
            artifact_type: None,
            annotations: BTreeMap::new(),
        }
    }
}
