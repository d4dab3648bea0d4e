//! The link that all connections of a registry share.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The most that is sent at once over a link with a rate, bytes.
const LARGEST_STEP: u64 = 16 * 1024;

/// A link with a rate for all connections together, or without one. What is sent is queued in the order in
/// which it comes, so connections get equal shares.
#[derive(Debug, Default)]
pub(super) struct Link(Mutex<LinkState>);

#[derive(Debug, Default)]
struct LinkState {
    /// Bytes per second; 0 for no limit.
    rate: u64,
    /// When the link has sent all that is queued.
    free_at: Option<Instant>,
}

impl Link {
    /// Sets the rate, bytes per second; 0 for no limit.
    pub(super) fn set_rate(&self, rate: u64) {
        *self.0.lock() = LinkState { rate, free_at: None };
    }

    /// Returns how much may be sent at once, bytes: about a fiftieth of a second's worth.
    pub(super) fn step(&self) -> usize {
        match self.0.lock().rate {
            0 => usize::MAX,
            rate => usize::try_from((rate / 50).clamp(1, LARGEST_STEP)).unwrap_or(usize::MAX),
        }
    }

    /// Queues `bytes`, and returns how long it takes until the link has sent them.
    pub(super) fn send(&self, bytes: usize) -> Option<Duration> {
        let mut state = self.0.lock();
        if state.rate == 0 {
            return None;
        }
        let now = Instant::now();
        let begin = state.free_at.map_or(now, |free_at| free_at.max(now));
        let end = begin + Duration::from_secs_f64(bytes as f64 / state.rate as f64);
        state.free_at = Some(end);
        Some(end - now)
    }
}
