//! The number of connections of a pull.
//!
//! Two connections begin with a large blob. Each further one has to make the pull faster: after a [`Window`] the
//! sum of all connections is compared with what fewer brought. While it grows by a quarter or more, the number
//! of connections doubles. When it does not, the pull goes back to the smaller number, and its chunks come a
//! few at a time, in order. Different blobs of an image are fetched side by side without that
//! comparison, unless the host is far and the link slow.

use std::time::{Duration, Instant};

/// The most that one thread fetches alone from a near host, bytes: it arrives before another thread has
/// started.
pub(super) const ONE_THREAD: u64 = 128 << 10;

/// The rate of a connection that is bounded by this machine and not by the network, bytes per second.
pub(super) const FAST: f64 = 150e6;

/// Connections to a large blob without a comparison: one that hangs does not hold up the other.
const FIRST: usize = 2;

/// Blobs that are fetched side by side at once over a slow link.
pub(super) const FEW: usize = 4;

/// A host that needs longer to answer may be behind a slow link.
const FAR: Duration = Duration::from_millis(50);

/// The rate of a slow link, bytes per second.
const SLOW: f64 = 256e3;

/// A window covers at least so many bytes and so much time, and so many round trips: new connections have to
/// be set up, and to send more than their first segments.
const WINDOW_BYTES: u64 = 256 << 10;
const WINDOW_TIME: Duration = Duration::from_millis(5);
const WINDOW_ROUND_TRIPS: u32 = 3;

/// How much faster the sum has to become for the connections that were added.
const GAIN: f64 = 1.25;

/// Windows without a gain after which the added connections are given up.
const MAX_WINDOWS_WITHOUT_GAIN: u32 = 3;

/// How much faster the sum has to become before connections are added again.
const CHANGED: f64 = 1.5;

/// The number of connections that make a pull faster, as far as was measured.
#[derive(Debug)]
pub(super) struct ConnectionRamp {
    limit: usize,
    /// The limit before the last step, and the rate it brought, bytes per second.
    before: usize,
    rate_before: f64,
    /// Whether the added connections had no gain.
    is_settled: bool,
    windows_without_gain: u32,
    window: Option<Window>,
    /// The rate of the last window, bytes per second.
    rate: f64,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    since: Instant,
    bytes: u64,
}

impl ConnectionRamp {
    pub(super) fn new() -> Self {
        ConnectionRamp {
            limit: FIRST,
            before: FIRST,
            rate_before: 0.0,
            is_settled: false,
            windows_without_gain: 0,
            window: None,
            rate: 0.0,
        }
    }

    /// Returns how many connections may fetch chunks.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Returns how many blobs may be fetched side by side from a host with this round trip.
    pub(super) fn blobs(&self, round_trip: Option<Duration>) -> usize {
        let is_far = round_trip.is_some_and(|round_trip| round_trip > FAR);
        if is_far && self.rate < SLOW { FEW } else { usize::MAX }
    }

    /// Counts bytes that arrived at `now`, over `connections` to a host with this round trip. Returns whether
    /// more connections may be opened than before.
    pub(super) fn count(
        &mut self,
        now: Instant,
        bytes: u64,
        connections: usize,
        round_trip: Option<Duration>,
    ) -> bool {
        // Its first bytes begin a window, and are not part of it.
        let Some(window) = &mut self.window else {
            self.window = Some(Window { since: now, bytes: 0 });
            return false;
        };
        window.bytes += bytes;
        let time = now.saturating_duration_since(window.since);
        let least = WINDOW_TIME.max(round_trip.unwrap_or_default() * WINDOW_ROUND_TRIPS);
        if window.bytes < WINDOW_BYTES && !self.is_slow(time) || time < least {
            return false;
        }
        let was_slow = self.rate < SLOW;
        self.rate = self.window.take().map_or(0.0, |window| window.bytes as f64 / time.as_secs_f64());
        let is_more = self.judge(connections);
        is_more || was_slow && self.rate >= SLOW
    }

    /// A second is enough to see that a link is slow.
    fn is_slow(&self, time: Duration) -> bool {
        time >= Duration::from_secs(1)
    }

    /// Compares the last window with the one before the last step. Returns whether there is another step.
    fn judge(&mut self, connections: usize) -> bool {
        let needed = if self.is_settled { CHANGED } else { GAIN };
        if self.rate >= self.rate_before * needed {
            if connections < self.limit {
                // It grew by itself; whether more connections help shows when all are in use.
                return false;
            }
            (self.before, self.rate_before) = (connections.max(self.limit), self.rate);
            (self.is_settled, self.windows_without_gain) = (false, 0);
            self.limit = self.before.saturating_mul(2);
            return true;
        }
        if !self.is_settled && connections >= self.limit {
            self.windows_without_gain += 1;
            if self.windows_without_gain >= MAX_WINDOWS_WITHOUT_GAIN {
                (self.is_settled, self.limit) = (true, self.before);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets a ramp find its limit: `rate` returns the rate of so many connections, bytes per second.
    fn settle(rate: impl Fn(usize) -> f64) -> usize {
        let (mut ramp, mut now) = (ConnectionRamp::new(), Instant::now());
        for _ in 0..10_000 {
            let connections = ramp.limit().min(16);
            now += Duration::from_secs_f64(f64::from(16 << 10) / rate(connections));
            ramp.count(now, 16 << 10, connections, Some(Duration::from_millis(20)));
        }
        ramp.limit().min(16)
    }

    #[test]
    fn a_link_that_one_connection_fills_gets_one_to_four() {
        for rate in [8e3, 200e3, 2e6, 20e6, 1e9] {
            let connections = settle(|_| rate);
            assert!((1..=4).contains(&connections), "{connections} at {rate}");
        }
    }

    #[test]
    fn connections_are_added_while_each_makes_the_sum_faster() {
        for (most, expected) in [(2.0, 2..=4), (4.0, 4..=8), (100.0, 16..=16)] {
            let connections = settle(|connections| 1e6 * (connections as f64).min(most));
            assert!(expected.contains(&connections), "{connections} where {most} are of use");
        }
    }

    #[test]
    fn a_far_host_over_a_slow_link_is_asked_for_few_blobs_until_it_proves_fast() {
        let (mut ramp, now) = (ConnectionRamp::new(), Instant::now());
        let far = Some(Duration::from_millis(80));
        assert_eq!(ramp.blobs(Some(Duration::from_millis(20))), usize::MAX);
        assert_eq!(ramp.blobs(None), usize::MAX);
        assert_eq!(ramp.blobs(far), FEW);
        ramp.count(now, 1, FEW, far);
        assert!(ramp.count(now + Duration::from_secs(1), WINDOW_BYTES, FEW, far));
        assert_eq!(ramp.blobs(far), usize::MAX);
    }
}
