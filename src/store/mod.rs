//! Images on disk: an OCI image layout that other tools can read at any moment, and that power loss,
//! SIGKILL, a full disk or a second process cannot break.
//!
//! ```text
//! STORE/
//! ├── oci-layout               marks the folder as an OCI image layout of version 1.0.0
//! ├── index.json               the images and their names; replaced as a whole, never written in place
//! ├── blobs/
//! │   └── sha256/              one folder for each digest algorithm
//! │       └── HEX              a manifest, index, config or layer; read-only, complete and verified
//! └── .oci-puller/             files of this crate; other tools skip it
//!     ├── partial/
//!     │   ├── sha256-HEX       bytes of an unfinished download; its writer holds a lock on it
//!     │   └── unnamed-PID-N    a file on its way in from an archive, its digest not known yet
//!     ├── damaged/
//!     │   └── sha256-HEX       a blob that did not match its digest, moved here
//!     ├── leases/
//!     │   └── PID-N            digests that one open store uses, one a line; locked while it is open
//!     ├── index.lock           locked while index.json is rewritten
//!     ├── collect.lock         shared while a lease grows, exclusive while blobs are removed
//!     ├── index.json           the next index.json, until it is renamed
//!     ├── reserve              becomes the next index.json when the disk has no room for one
//!     ├── index.json.lost      an index.json that power loss made unreadable
//!     └── oci-layout           the next oci-layout, until it is renamed
//! ```
//!
//! A blob is written into a partial file, compared with its size and hash, flushed, and renamed to its digest;
//! then its folder is flushed. The name enters `index.json` when all blobs are in place.

// `Store::begin` locks a blob's digest, `Ingest` writes its bytes, and `Store::tag` adds the name. Commits that
// are ready at the same moment share their flushes (`group_commit`). Where nothing is flushed, small blobs take
// a shorter way (`ingest::SMALL`).

mod blob;
mod cancellable;
mod children;
mod create;
mod disk_usage;
mod error;
mod export;
mod gc;
mod group_commit;
#[cfg(feature = "unpack")]
mod growing;
mod growth;
pub(crate) mod handle;
mod image_files;
mod import;
mod in_progress;
mod index;
mod index_write;
mod ingest;
mod layout;
mod lease;
mod leftovers;
mod lookup;
mod names;
mod open;
mod partial_gc;
mod prune_loop;
mod references;
mod repair;
mod reservations;
mod retry_io;
mod settings;
mod signatures;
mod sizes;
mod tar;
#[cfg(test)]
mod tests;
mod transaction;
mod verify;

pub use blob::Blob;
pub use cancellable::Cancellable;
pub use disk_usage::StoreFsInfo;
pub use export::ArchiveFormat;
pub use gc::{PrunePolicy, Removed};
pub(crate) use handle::Store;
pub use image_files::{BlobFile, ImageFiles};
pub use import::{ImportOptions, Imported, SkippedImage};
pub(crate) use ingest::{BeginIngest, Chunk, ChunkedIngest, Ingest, SMALL};
pub use lookup::StoredImage;
pub use prune_loop::PruneLoop;
pub use settings::{Durability, StoreBuilder};
#[cfg(feature = "signatures")]
pub(crate) use signatures::ImportJudge;
pub(crate) use signatures::Signatures;
pub(crate) use transaction::{Naming, Transaction};
pub use verify::VerifyReport;
