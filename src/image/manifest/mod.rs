//! Descriptors, manifests and indexes: their fields, parsing and writing.

mod fields;
pub mod media_type;
mod parse;
mod types;
mod write;

pub use super::json::{MAX_DESCRIPTORS, MAX_DOCUMENT_BYTES};
pub use types::{Descriptor, Document, Index, Manifest};
