//! A token bucket: a plain value, with the time as a parameter.

use std::time::{Duration, Instant};

/// A bucket that fills at a rate, up to its size. Its level may be negative: [`spend`](Self::spend) takes
/// tokens that are not there yet.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    /// Tokens a second.
    rate: f64,
    size: f64,
    tokens: f64,
    filled_at: Instant,
}

impl TokenBucket {
    /// Returns a full bucket.
    pub(crate) fn full(rate: f64, size: u32, now: Instant) -> Self {
        let size = f64::from(size);
        TokenBucket { rate, size, tokens: size, filled_at: now }
    }

    /// Returns an empty bucket.
    pub(crate) fn empty(rate: f64, size: f64, now: Instant) -> Self {
        TokenBucket { rate, size, tokens: 0.0, filled_at: now }
    }

    /// Changes rate and size from `now` on.
    pub(crate) fn change(&mut self, rate: f64, size: f64, now: Instant) {
        self.fill(now);
        (self.rate, self.size, self.tokens) = (rate, size, self.tokens.min(size));
    }

    /// Takes `tokens`, whether they are there or not.
    pub(crate) fn spend(&mut self, tokens: f64, now: Instant) {
        self.fill(now);
        self.tokens -= tokens;
    }

    /// Returns how long it takes until the level is `level` or more; zero if it is.
    pub(crate) fn time_to(&mut self, level: f64, now: Instant) -> Duration {
        self.fill(now);
        // A wait that the clock cannot hold ends with the next change.
        Duration::try_from_secs_f64((level - self.tokens).max(0.0) / self.rate).unwrap_or(Duration::MAX)
    }

    /// Takes a token, or returns how long it takes until there is one.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        // What the sum of many small parts may lack of a whole token.
        const ROUNDING: f64 = 1e-6;
        self.fill(now);
        if self.tokens + ROUNDING >= 1.0 {
            self.tokens = (self.tokens - 1.0).max(0.0);
            Ok(())
        } else {
            Err(Duration::from_secs_f64((1.0 - self.tokens) / self.rate))
        }
    }

    fn fill(&mut self, now: Instant) {
        let filled = now.saturating_duration_since(self.filled_at).as_secs_f64() * self.rate;
        self.tokens = (self.tokens + filled).min(self.size);
        self.filled_at = self.filled_at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_then_the_rate_rules() {
        let mut now = Instant::now();
        let mut bucket = TokenBucket::full(5.0, 10, now);
        assert_eq!((0..20).filter(|_| bucket.take(now).is_ok()).count(), 10);
        let wait = bucket.take(now).unwrap_err();
        assert_eq!(wait, Duration::from_millis(200));
        now += wait;
        assert_eq!(bucket.take(now), Ok(()));
        assert!(bucket.take(now).is_err());
        now += Duration::from_secs(3600);
        assert_eq!((0..20).filter(|_| bucket.take(now).is_ok()).count(), 10, "no more than it holds");
    }

    proptest! {
        #[test]
        fn the_sum_stays_within_burst_and_rate(
            rate in 0.1..100.0_f64,
            size in 1_u32..50,
            pauses in prop::collection::vec(0_u64..2000, 1..200),
        ) {
            let begin = Instant::now();
            let (mut now, mut taken) = (begin, 0);
            let mut bucket = TokenBucket::full(rate, size, begin);
            for pause in pauses {
                now += Duration::from_millis(pause);
                taken += u32::from(bucket.take(now).is_ok());
                let most = f64::from(size) + rate * (now - begin).as_secs_f64();
                prop_assert!(f64::from(taken) <= most + 0.01, "{taken} instead of {most}");
            }
        }

        #[test]
        fn a_wait_of_the_time_told_gives_a_token(rate in 0.1..100.0_f64, size in 1_u32..50) {
            let mut now = Instant::now();
            let mut bucket = TokenBucket::full(rate, size, now);
            for _ in 0..100 {
                if let Err(wait) = bucket.take(now) {
                    now += wait;
                    prop_assert_eq!(bucket.take(now), Ok(()));
                }
            }
        }
    }
}
