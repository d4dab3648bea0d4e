//! JSON, parsed strictly and in one pass.
//!
//! Any two programs must see the same image in the same bytes, so no key stands twice, none differs from a
//! known one only in case, and a value has the type that is expected. Depth, lengths and counts are capped,
//! and an error names the field that it is about. An optional field that is `null` is absent. Unknown fields
//! are checked and dropped.

mod limits;
mod object;
mod place;
mod unread;
mod values;

pub use limits::{MAX_DESCRIPTORS, MAX_DOCUMENT_BYTES};
pub(super) use object::{Object, Value, object};
pub(super) use place::{Flaw, Place};
pub(super) use values::{Integer, Names, Strict, parse};
