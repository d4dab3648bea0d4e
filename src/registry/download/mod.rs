//! Downloads blobs into the store: in parallel, from one host after the other, and resumes after a broken
//! connection.
//!
//! [`blobs`] fills a [`DownloadPool`](pool::DownloadPool), whose [workers](worker::Worker) each take one
//! blob at a time. A small blob is fetched [on one connection](sequential), the [chunks](chunked) of a large one
//! on several.

mod chunked;
mod image;
mod pool;
mod ramp;
mod sequential;
mod source;
mod stats;
mod worker;

pub(super) use image::{BlobOrder, blobs};
pub(super) use stats::TransferStats;
