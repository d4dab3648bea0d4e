//! The rate of a download.

use std::time::{Duration, Instant};

/// A rate is an average over one to two spans.
const SPAN: Duration = Duration::from_secs(5);

/// There is no rate before this time.
const LEAST: Duration = Duration::from_millis(500);

/// The rate of a count that grows.
#[derive(Clone, Debug)]
pub(super) struct Rate {
    older: (Instant, u64),
    newer: (Instant, u64),
}

impl Rate {
    /// Begins at a count.
    pub(super) fn new(now: Instant, count: u64) -> Self {
        Rate { older: (now, count), newer: (now, count) }
    }

    /// Notes a count.
    pub(super) fn note(&mut self, now: Instant, count: u64) {
        if now.saturating_duration_since(self.newer.0) >= SPAN {
            self.older = self.newer;
            self.newer = (now, count);
        }
    }

    /// Returns the growth a second; 0 while it is not known.
    pub(super) fn per_second(&self, now: Instant, count: u64) -> u64 {
        let time = now.saturating_duration_since(self.older.0);
        if time < LEAST {
            return 0;
        }
        (count.saturating_sub(self.older.1) as f64 / time.as_secs_f64()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_forgets_the_distant_past() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut rate = Rate::new(began, 0);
        assert_eq!(rate.per_second(began, 0), 0);
        assert_eq!(rate.per_second(at(2), 200), 100);
        for second in 1..=30 {
            rate.note(at(second), 100 * second.min(20));
        }
        assert_eq!(rate.per_second(at(30), 2000), 0, "it stands still since second 20");
        assert_eq!(rate.per_second(at(31), 1), 0);
    }
}
