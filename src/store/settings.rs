//! The settings of a store.

use std::path::PathBuf;
use std::time::Duration;

use crate::durable::Flush;
use crate::image::platform::Platform;

/// What an answered pull survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// Power loss: an answered pull is on the disk. The default.
    #[default]
    Full,
    /// The end of the process, SIGKILL included, but not power loss: the store flushes nothing. After a
    /// power cut, images that were answered may be missing, and blobs may be short, empty or wrong
    /// under their digests: run [`verify`](crate::Store::verify) then. The next opening with this
    /// setting writes a lost `oci-layout` or `index.json` anew, and keeps the remains of the index as
    /// `.oci-puller/index.json.lost`.
    Relaxed,
}

/// How much of a download arrives between two flushes of its partial.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlushInterval {
    /// Bytes.
    pub(super) bytes: u64,
    pub(super) time: Duration,
}

/// The settings of an open store.
#[derive(Clone, Debug)]
pub(super) struct StoreSettings {
    pub(super) platform: Platform,
    pub(super) durability: Durability,
    pub(super) keep_partials: Duration,
    pub(super) partials_share: f64,
    pub(super) reserve: Option<u64>,
    pub(super) partial_flush: FlushInterval,
    /// Whether flushes run on threads of their own. Tests on the simulated disk turn this off, so that
    /// its steps come in order.
    pub(super) has_threads: bool,
}

impl Default for StoreSettings {
    fn default() -> Self {
        StoreSettings {
            platform: Platform::host(),
            durability: Durability::Full,
            keep_partials: Duration::from_secs(24 * 60 * 60),
            partials_share: 0.1,
            reserve: None,
            partial_flush: FlushInterval { bytes: 64 << 20, time: Duration::from_secs(30) },
            has_threads: true,
        }
    }
}

impl StoreSettings {
    pub(super) fn flush(&self) -> Flush {
        match self.durability {
            Durability::Full => Flush::Wait,
            Durability::Relaxed => Flush::Skip,
        }
    }
}

/// Configures and opens a [`Store`](crate::Store).
#[derive(Clone, Debug)]
pub struct StoreBuilder {
    pub(super) dir: PathBuf,
    pub(super) settings: StoreSettings,
}

impl StoreBuilder {
    pub(super) fn new(dir: PathBuf) -> Self {
        StoreBuilder { dir, settings: StoreSettings::default() }
    }

    /// Sets what an answered pull survives. Default: power loss.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.settings.durability = durability;
        self
    }

    /// Sets the platform whose image is meant by a name that stands for the images of several.
    /// Default: this machine's.
    #[must_use]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.settings.platform = platform;
        self
    }

    /// Sets how long the bytes of an unfinished download are kept for the next pull. Default: 24 h.
    #[must_use]
    pub fn keep_partials(mut self, time: Duration) -> Self {
        self.settings.keep_partials = time;
        self
    }

    /// Sets the share of the disk that unfinished downloads may take, from 0 to 1; the oldest are
    /// removed first. Default: 0.1.
    #[must_use]
    pub fn partials_share(mut self, share: f64) -> Self {
        self.settings.partials_share = share;
        self
    }

    /// Sets how many bytes of the disk a pull leaves free. Default: 64 MiB, or 1 % of the disk if that
    /// is less.
    #[must_use]
    pub fn reserve(mut self, bytes: u64) -> Self {
        self.settings.reserve = Some(bytes);
        self
    }
}
