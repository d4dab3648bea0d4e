//! References, digests, platforms, manifests and configs: values without I/O or threads.

pub(crate) mod config;
pub(crate) mod digest;
mod json;
pub(crate) mod manifest;
pub(crate) mod platform;
mod quoted;
pub(crate) mod reference;
mod select;
pub(crate) mod size;

pub use config::{HistoryEntry, ImageConfig};
pub use digest::{Algorithm, Digest, Hasher};
pub use json::{MAX_DESCRIPTORS, MAX_DOCUMENT_BYTES};
pub use manifest::{Descriptor, Document, Index, Manifest, media_type};
pub use platform::{Platform, Preference};
pub(crate) use quoted::quoted;
pub use reference::Reference;
