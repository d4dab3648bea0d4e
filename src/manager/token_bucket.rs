//! The throttle: how many pulls may begin in a time.

use std::time::{Duration, Instant};

/// What happens to a request that needs a pull while the throttle has no token.
///
/// Neither is a failure of the image, so there is no back-off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ThrottleMode {
    /// The request is refused with `RateLimited`, whatever its policy, as by kubelet. The default. Sharing a
    /// pull that waits or runs needs no token.
    #[default]
    Refuse,
    /// The request waits for its turn, and can be cancelled meanwhile.
    Wait,
}

/// A bucket that fills at a rate, up to its size. It begins full.
#[derive(Debug)]
pub(super) struct TokenBucket {
    /// Tokens a second.
    rate: f64,
    size: f64,
    tokens: f64,
    filled_at: Instant,
}

impl TokenBucket {
    pub(super) fn new(rate: f64, size: u32, now: Instant) -> Self {
        let size = f64::from(size);
        TokenBucket { rate, size, tokens: size, filled_at: now }
    }

    /// Takes a token, or returns how long it takes until there is one.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        // What the sum of many small parts may lack of a whole token.
        const ROUNDING: f64 = 1e-6;
        let filled = now.saturating_duration_since(self.filled_at).as_secs_f64() * self.rate;
        self.tokens = (self.tokens + filled).min(self.size);
        self.filled_at = now;
        if self.tokens + ROUNDING >= 1.0 {
            self.tokens = (self.tokens - 1.0).max(0.0);
            Ok(())
        } else {
            Err(Duration::from_secs_f64((1.0 - self.tokens) / self.rate))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_then_the_rate_rules() {
        let mut now = Instant::now();
        let mut bucket = TokenBucket::new(5.0, 10, now);
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
        fn nobody_gets_more_than_burst_and_rate(
            rate in 0.1..100.0_f64,
            size in 1_u32..50,
            pauses in prop::collection::vec(0_u64..2000, 1..200),
        ) {
            let begin = Instant::now();
            let (mut now, mut taken) = (begin, 0);
            let mut bucket = TokenBucket::new(rate, size, begin);
            for pause in pauses {
                now += Duration::from_millis(pause);
                taken += u32::from(bucket.take(now).is_ok());
                let most = f64::from(size) + rate * (now - begin).as_secs_f64();
                prop_assert!(f64::from(taken) <= most + 0.01, "{taken} instead of {most}");
            }
        }

        #[test]
        fn who_waits_as_long_as_told_gets_a_token(rate in 0.1..100.0_f64, size in 1_u32..50) {
            let mut now = Instant::now();
            let mut bucket = TokenBucket::new(rate, size, now);
            for _ in 0..100 {
                if let Err(wait) = bucket.take(now) {
                    now += wait;
                    prop_assert_eq!(bucket.take(now), Ok(()));
                }
            }
        }
    }
}
