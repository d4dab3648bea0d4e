//! Tar archives: [ustar and pax](https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html#tag_20_94_13_06),
//! [GNU's extensions](https://www.gnu.org/software/tar/manual/html_node/Standard.html), and v7.
//!
//! The reader turns headers into entries and refuses what is ambiguous: two programs that read the same
//! archive must see the same entries. It decides nothing about paths: what an entry may be called, and
//! which kinds are allowed, is up to the rooms that read archives.

// Image archives need less of it than layers do.
#![cfg_attr(not(feature = "unpack"), allow(dead_code, unused_imports))]

mod block;
mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

pub(crate) use header::Kind;
pub(crate) use header::Time;
pub(crate) use reader::{Entry, Reader};
pub(crate) use sparse::Segment;
#[cfg(any(test, feature = "unpack"))]
pub(crate) use writer::HeaderFields;
pub(crate) use writer::Writer;
