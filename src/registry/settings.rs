//! The settings of a service.

use std::num::NonZero;
use std::thread;
use std::time::Duration;

use super::host_limits::RetryPolicy;
use super::http::{Limits, MinRate, ProxyChoice, Trust};
use crate::image::platform::Platform;

const MIB: u64 = 1024 * 1024;

/// What the builder was told, or else the defaults.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) platform: Platform,
    /// Whether the caller asked for the platform.
    pub(super) is_platform_explicit: bool,
    pub(super) limits: Limits,
    pub(super) retry: RetryPolicy,
    pub(super) trust: Trust,
    pub(super) proxy: ProxyChoice,
    pub(super) downloads_per_pull: usize,
    /// How many downloads keep this machine busy, where no time is lost on the way.
    pub(super) side_by_side: usize,
    pub(super) chunks: ChunkPolicy,
    /// The hosts that a token server may be on, besides the registry's own; `None` for any.
    pub(super) token_realms: Option<Vec<String>>,
    pub(super) max_image_size: u64,
    pub(super) allow_foreign_urls: bool,
    pub(super) stack_size: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            platform: Platform::host(),
            is_platform_explicit: false,
            limits: Limits {
                connect: Duration::from_secs(10),
                head: Duration::from_secs(30),
                silence: Duration::from_secs(30),
                min_rate: MinRate { bytes: 60 * 1024, time: Duration::from_secs(60) },
                idle_connections: 16,
            },
            retry: RetryPolicy {
                tries: 5,
                base: Duration::from_millis(500),
                cap: Duration::from_secs(30),
                max_retry_after: Duration::from_secs(120),
            },
            trust: Trust::default(),
            proxy: ProxyChoice::Environment,
            downloads_per_pull: 16,
            side_by_side: 2 * thread::available_parallelism().map_or(1, NonZero::get),
            chunks: ChunkPolicy { from: 8 * MIB, size: 4 * MIB },
            token_realms: None,
            max_image_size: u64::MAX,
            allow_foreign_urls: false,
            stack_size: 256 * 1024,
        }
    }
}

/// When a blob is fetched in chunks, several at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChunkPolicy {
    /// The smallest blob that is fetched in chunks, bytes.
    pub(super) from: u64,
    /// The size of a chunk, bytes.
    pub(super) size: u64,
}
