//! A blob's way from the network to its name.

mod begin;
mod block_map;
mod chunks;
mod flush;
mod hash;
mod lookup;
mod partial;
mod progress;
mod verify;
mod write;

pub(crate) use begin::BeginIngest;
pub(crate) use chunks::ChunkedIngest;
pub(super) use hash::READ;
pub(crate) use progress::Chunk;
pub(crate) use write::{Ingest, SMALL};
