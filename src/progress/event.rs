//! The events, and their receiver.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::image::digest::Digest;
use crate::image::platform::Platform;

/// Receives the progress events of a pull.
///
/// Called from several threads of the pull at once. The pull waits for each call, so a call should return soon. A
/// panic in it fails the pull.
///
/// A [`Sender`] of events is a receiver of progress: it sends each event over its channel. With a bounded channel
/// that is full, the pull waits for room; a disconnected channel is ignored.
pub trait Progress: Send + Sync {
    /// Receives one event.
    fn event(&self, event: &ProgressEvent);
}

impl<P: Progress + ?Sized> Progress for Arc<P> {
    fn event(&self, event: &ProgressEvent) {
        (**self).event(event);
    }
}

impl Progress for Sender<ProgressEvent> {
    fn event(&self, event: &ProgressEvent) {
        let _ = self.send(event.clone());
    }
}

/// A step of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProgressEvent {
    /// The pull waits for its turn. Reported by the image manager for a pull that cannot start at once.
    Queued,
    /// The pull has its token or the worker, and begins.
    Started,
    /// The name resolved to a manifest for the platform. A pull for several platforms reports it once for each image;
    /// blobs and bytes add up.
    Resolved {
        /// The host that served the manifest.
        host: String,
        /// The manifest's digest.
        manifest: Digest,
        /// The number of blobs of the image, config included, each counted once.
        blobs: usize,
        /// Their size, bytes.
        bytes: u64,
    },
    /// The image has no index, and its config names another platform than this machine's. The pull goes on; where
    /// the platform was configured, it fails instead.
    OtherPlatform {
        /// The platform of the config.
        offered: Platform,
        /// The platform of this machine.
        wanted: Platform,
    },
    /// A blob was in the store already.
    BlobReused {
        /// The blob.
        digest: Digest,
        /// Its size, bytes.
        size: u64,
    },
    /// The download of a blob begins, or another host continues it.
    BlobStarted {
        /// The blob.
        digest: Digest,
        /// Its size, bytes.
        size: u64,
        /// Bytes that an earlier download left.
        offset: u64,
        /// The host that serves the blob.
        host: String,
    },
    /// Bytes of a blob were received and written.
    BlobAdvanced {
        /// The blob.
        digest: Digest,
        /// Bytes since the last such event.
        bytes: u64,
    },
    /// The bytes of a blob that earlier events counted are fetched again.
    BlobRestarted {
        /// The blob.
        digest: Digest,
        /// Bytes that are thrown away.
        bytes: u64,
    },
    /// A blob is complete, verified and in the store.
    BlobDone {
        /// The blob.
        digest: Digest,
    },
    /// Bytes of a layer were read for unpacking.
    UnpackAdvanced {
        /// The layer's blob.
        digest: Digest,
        /// Bytes of the blob since the last such event.
        bytes: u64,
    },
    /// A layer is unpacked.
    LayerUnpacked {
        /// The layer's blob.
        digest: Digest,
    },
    /// The pull waits before its next request to a host.
    Waiting {
        /// The host.
        host: String,
        /// The reason: an error, or a host's limit.
        reason: String,
        /// The length of the wait.
        delay: Duration,
    },
}
