//! The limits of documents.

/// Maximum size of a manifest, an index or a config: 4 MiB.
pub const MAX_DOCUMENT_BYTES: usize = 4 << 20;

/// Maximum number of layers of a manifest, of manifests of an index, and of items of any other list.
pub const MAX_DESCRIPTORS: usize = 4096;

/// Maximum depth of lists and objects in a field that is not read.
pub(super) const MAX_DEPTH: usize = 32;

/// Maximum number of fields of an object.
pub(super) const MAX_FIELDS: usize = 4096;
