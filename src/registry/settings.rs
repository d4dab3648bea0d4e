//! The settings of a service.

use std::num::NonZero;
use std::thread;
use std::time::Duration;

use super::host_limits::RetryPolicy;
use super::http::{HttpLimits, MinRate, ProxyChoice, Trust};
use crate::image::platform::Platform;

const MIB: u64 = 1024 * 1024;

/// The settings of the builder.
#[derive(Clone, Debug)]
pub(super) struct RegistrySettings {
    pub(super) platform: Platform,
    /// Whether the caller has set the platform.
    pub(super) is_platform_explicit: bool,
    pub(super) selection: Selection,
    pub(super) limits: HttpLimits,
    pub(super) response: ResponseTimes,
    pub(super) retry: RetryPolicy,
    pub(super) trust: Trust,
    pub(super) proxy: ProxyChoice,
    pub(super) downloads_per_pull: usize,
    /// The number of downloads that keep this machine busy when the network is no bottleneck.
    pub(super) side_by_side: usize,
    pub(super) chunks: ChunkPolicy,
    /// The hosts that a token server may be on, besides the registry's own; `None` for any.
    pub(super) token_realms: Option<Vec<String>>,
    pub(super) max_image_size: u64,
    /// Bytes per second at the start; 0 for no limit.
    pub(super) bandwidth: u64,
    pub(super) allow_foreign_urls: bool,
    /// `HOST` or `HOST:PORT`, in lower case.
    pub(super) allowed_redirects: Vec<String>,
    pub(super) stack_size: usize,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        RegistrySettings {
            platform: Platform::host(),
            is_platform_explicit: false,
            selection: Selection::One,
            limits: HttpLimits {
                connect: Duration::from_secs(10),
                silence: Duration::from_secs(30),
                min_rate: MinRate { bytes: 60 * 1024, time: Duration::from_secs(60) },
                idle_connections: 16,
            },
            response: ResponseTimes::default(),
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
            bandwidth: 0,
            allow_foreign_urls: false,
            allowed_redirects: Vec::new(),
            stack_size: 256 * 1024,
        }
    }
}

/// Which images of an index are pulled.
#[derive(Clone, Debug)]
pub(super) enum Selection {
    /// The image for the platform of the settings.
    One,
    /// An image for each of these platforms.
    Several(Vec<Platform>),
    /// All that the index lists.
    All,
}

/// How long a host may take to answer with the head of its reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResponseTimes {
    /// For a blob, and unless `other` is set, for all else.
    pub(super) blob: Option<Duration>,
    /// For requests other than those of blobs.
    pub(super) other: Option<Duration>,
    /// The most that a host may take while another host was not asked yet.
    pub(super) failover: Duration,
}

impl Default for ResponseTimes {
    fn default() -> Self {
        ResponseTimes { blob: None, other: None, failover: Duration::from_secs(30) }
    }
}

impl ResponseTimes {
    /// A cache that fetches from its upstream first may need minutes for the head.
    const BLOB: Duration = Duration::from_secs(5 * 60);
    const OTHER: Duration = Duration::from_secs(60);
    const TOKEN_SERVER: Duration = Duration::from_secs(30);

    /// Returns the limit of one request.
    pub(super) fn limit(&self, is_blob: bool, others_left: bool) -> Duration {
        let whole = match is_blob {
            true => self.blob.unwrap_or(Self::BLOB),
            false => self.other.or(self.blob).unwrap_or(Self::OTHER),
        };
        if others_left { whole.min(self.failover) } else { whole }
    }

    /// Returns the limit of a token server.
    pub(super) fn of_token_server(&self) -> Duration {
        self.limit(false, false).min(Self::TOKEN_SERVER)
    }
}

/// Which blobs are fetched in chunks, several at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChunkPolicy {
    /// The smallest blob that is fetched in chunks, bytes.
    pub(super) from: u64,
    /// The size of a chunk, bytes.
    pub(super) size: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_a_response_depends_on_its_kind_and_on_the_hosts_that_are_left() {
        let times = |blob: Option<u64>, other: Option<u64>, failover: u64| ResponseTimes {
            blob: blob.map(Duration::from_secs),
            other: other.map(Duration::from_secs),
            failover: Duration::from_secs(failover),
        };
        // Blob, blob while others are left, other, other while others are left, token server; seconds.
        for (times, expected) in [
            (ResponseTimes::default(), [300, 30, 60, 30, 30]),
            (times(Some(20), None, 30), [20, 20, 20, 20, 20]),
            (times(Some(600), None, 30), [600, 30, 600, 30, 30]),
            (times(Some(600), Some(10), 30), [600, 30, 10, 10, 10]),
            (times(None, Some(90), 5), [300, 5, 90, 5, 30]),
            (times(None, None, 400), [300, 300, 60, 60, 30]),
        ] {
            let limits = [
                times.limit(true, false),
                times.limit(true, true),
                times.limit(false, false),
                times.limit(false, true),
                times.of_token_server(),
            ];
            assert_eq!(limits.map(|limit| limit.as_secs()), expected, "{times:?}");
        }
        let endless = ResponseTimes { blob: Some(Duration::MAX), ..ResponseTimes::default() };
        assert_eq!(endless.limit(true, false), Duration::MAX);
    }
}
