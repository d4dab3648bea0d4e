//! How many connections a pull opens.

/// The most that one thread fetches alone from a near host, bytes: it arrives before another thread has
/// started.
pub(super) const ONE_THREAD: u64 = 128 << 10;

/// Bytes of a blob that have to arrive before other threads join.
pub(super) const PROBE: u64 = 1024 * 1024;

/// The rate of a connection that is bounded by this machine and not by the network, bytes per second.
pub(super) const FAST: f64 = 150e6;
