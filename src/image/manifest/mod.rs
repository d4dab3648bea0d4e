//! Descriptors, manifests and indexes: their fields, parsing and writing.

mod fields;
pub mod media_type;
mod parse;
mod types;
mod write;

pub(crate) use super::json::{MAX_DESCRIPTORS, MAX_DOCUMENT_BYTES};
pub use types::{Descriptor, Document, Index, Manifest};

/// How deep indexes may be nested; the outermost has depth 0.
pub(crate) const MAX_INDEX_DEPTH: usize = 4;
