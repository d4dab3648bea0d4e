//! Progress events of a pull.

use std::time::Duration;

use crate::image::digest::Digest;
use crate::image::platform::Platform;

/// Watches a pull. Called from the pull's own threads, from several at once: it should be quick,
/// for the pull waits meanwhile. A panic in it fails the pull.
pub trait Progress: Send + Sync {
    /// Something happened.
    fn event(&self, event: &ProgressEvent<'_>);
}

/// What happened in a pull.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ProgressEvent<'a> {
    /// The pull waits for its turn; told by the image manager, for a pull that cannot start at once.
    Queued,
    /// The token or the worker is there: the pull begins.
    Started,
    /// The name became a manifest for this platform. A pull for several platforms tells it once for each image; the
    /// blobs and bytes add up.
    Resolved {
        /// The host that answered.
        host: &'a str,
        /// The manifest's digest.
        manifest: &'a Digest,
        /// How many blobs the image has, config included, each counted once.
        blobs: usize,
        /// Their size, bytes.
        bytes: u64,
    },
    /// The image has no index, and its config names another platform than this machine's. It is pulled all
    /// the same; a platform that was asked for is an error instead.
    OtherPlatform {
        /// The platform of the config.
        offered: &'a Platform,
        /// The platform of this machine.
        wanted: &'a Platform,
    },
    /// A blob was in the store already.
    BlobReused {
        /// Which blob.
        digest: &'a Digest,
        /// Its size, bytes.
        size: u64,
    },
    /// A blob is being fetched; told again when another host takes over.
    BlobStarted {
        /// Which blob.
        digest: &'a Digest,
        /// Its size, bytes.
        size: u64,
        /// Bytes that were there already, from a pull that broke.
        offset: u64,
        /// The host that serves it.
        host: &'a str,
    },
    /// Bytes of a blob came and were written.
    BlobAdvanced {
        /// Which blob.
        digest: &'a Digest,
        /// How many bytes came since the last such event.
        bytes: u64,
    },
    /// Bytes of a blob that were counted have to be fetched again.
    BlobRestarted {
        /// Which blob.
        digest: &'a Digest,
    },
    /// A blob is whole, verified, and stands under its digest.
    BlobDone {
        /// Which blob.
        digest: &'a Digest,
    },
    /// Bytes of a layer were read to be unpacked.
    UnpackAdvanced {
        /// Which layer, by its blob.
        digest: &'a Digest,
        /// How many bytes of the blob were read since the last such event.
        bytes: u64,
    },
    /// A layer is unpacked.
    LayerUnpacked {
        /// Which layer, by its blob.
        digest: &'a Digest,
    },
    /// The pull waits before it asks a host again.
    Waiting {
        /// The host.
        host: &'a str,
        /// Why.
        reason: &'a str,
        /// For how long.
        delay: Duration,
    },
}
