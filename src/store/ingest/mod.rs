//! A blob's way from the network to its name.

mod begin;
mod chunk_bitmap;
mod chunks;
mod hash;
mod lookup;
mod partial;
mod write;

pub(crate) use begin::BeginIngest;
pub(crate) use chunks::{Chunk, ChunkedIngest};
pub(super) use hash::READ;
pub(crate) use write::{Ingest, SMALL};
