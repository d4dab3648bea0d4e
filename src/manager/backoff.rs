//! The back-off of images whose pull failed.
//!
//! The series is that of [client-go's back-off](https://pkg.go.dev/k8s.io/client-go/util/flowcontrol#Backoff):
//! it doubles with each failure, and is forgotten after twice the longest delay without one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::credential_hash::SecretsHash;
use crate::error::{Error, ErrorKind};

/// The longest `Retry-After` of a registry that is respected.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Failures are counted for each owner and image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct BackOffKey {
    pub(super) owner: String,
    /// With its tag, also where the request has none.
    pub(super) image: String,
}

/// The series of delays.
#[derive(Clone, Copy, Debug)]
pub(super) struct DelaySeries {
    pub(super) initial: Duration,
    pub(super) max: Duration,
    /// The part of itself, 0 to 1, by which a delay grows at most by chance.
    pub(super) jitter: f64,
}

/// The failures that still count.
#[derive(Debug)]
pub(super) struct BackOff {
    series: DelaySeries,
    entries: HashMap<Arc<BackOffKey>, BackOffEntry>,
    next_sweep: Option<Instant>,
}

#[derive(Debug)]
struct BackOffEntry {
    /// The place in the series.
    step: Duration,
    /// The delay: the step with its jitter, or the registry's `Retry-After`.
    delay: Duration,
    failed_at: Instant,
    failure: Failure,
}

/// A pull that failed.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) cause: Error,
    /// The request's credentials. Other credentials are not backed off.
    pub(super) credentials: SecretsHash,
    /// The pull's number. A pull that several requests of an owner shared counts once.
    pub(super) pull: u64,
}

/// Why an image is not pulled now, and for how long.
#[derive(Debug)]
pub(super) struct BackedOff {
    pub(super) cause: Error,
    pub(super) left: Duration,
}

impl BackOff {
    pub(super) fn new(series: DelaySeries) -> Self {
        BackOff { series, entries: HashMap::new(), next_sweep: None }
    }

    /// Returns the key's back-off, if there is one now. Other credentials than those that failed end it.
    pub(super) fn get(
        &mut self,
        key: &BackOffKey,
        credentials: &SecretsHash,
        now: Instant,
    ) -> Option<BackedOff> {
        let entry = self.entries.get(key)?;
        if entry.failure.credentials != *credentials || entry.is_forgotten(now, self.series.max) {
            self.entries.remove(key);
            return None;
        }
        let left = entry.delay.saturating_sub(now.saturating_duration_since(entry.failed_at));
        (!left.is_zero()).then(|| BackedOff { cause: entry.failure.cause.clone(), left })
    }

    /// Backs the key off, for longer than the last time.
    pub(super) fn failed(&mut self, key: &Arc<BackOffKey>, failure: Failure, now: Instant) {
        self.sweep_now_and_then(now);
        let last = self.entries.get(key).filter(|entry| !entry.is_forgotten(now, self.series.max));
        if last.is_some_and(|entry| entry.failure.pull == failure.pull) {
            return;
        }
        let step = match last {
            _ if is_permanent(&failure.cause) => self.series.max,
            Some(entry) => entry.step.saturating_mul(2).min(self.series.max),
            None => self.series.initial,
        };
        let asked_for = failure.cause.retry_after().unwrap_or_default().min(LONGEST_RETRY_AFTER);
        let delay = self.with_jitter(step).max(asked_for);
        self.entries.insert(Arc::clone(key), BackOffEntry { step, delay, failed_at: now, failure });
    }

    /// Forgets the key's failures. Returns whether there were any.
    pub(super) fn forget(&mut self, key: &BackOffKey) -> bool {
        self.entries.remove(key).is_some()
    }

    /// Returns how many keys have failures that count at `now`.
    pub(super) fn len(&mut self, now: Instant) -> usize {
        self.sweep(now);
        self.entries.len()
    }

    fn with_jitter(&self, step: Duration) -> Duration {
        step.mul_f64(1.0 + self.series.jitter * fastrand::f64()).min(self.series.max)
    }

    /// Removes old keys as new ones come in: a key that no request has any more would stay for
    /// ever.
    fn sweep_now_and_then(&mut self, now: Instant) {
        if self.next_sweep.is_none_or(|at| at <= now) {
            self.sweep(now);
            self.next_sweep = now.checked_add(self.series.max);
        }
    }

    fn sweep(&mut self, now: Instant) {
        let max = self.series.max;
        self.entries.retain(|_, entry| !entry.is_forgotten(now, max));
        if self.entries.capacity() > 64 && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to_fit();
        }
    }
}

impl BackOffEntry {
    fn is_forgotten(&self, now: Instant, max: Duration) -> bool {
        let age = now.saturating_duration_since(self.failed_at);
        age > max.saturating_mul(2) && age >= self.delay
    }
}

/// Returns whether the pull can only succeed after a change of the request or at the registry.
pub(super) fn is_permanent(error: &Error) -> bool {
    use ErrorKind::*;
    let is_of_a_lasting_kind = matches!(
        error.kind(),
        InvalidReference | NoMatchingPlatform | InvalidManifest | Unsupported | Denied | Unauthorized
    );
    is_of_a_lasting_kind && !error.is_retryable()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KUBELETS: DelaySeries =
        DelaySeries { initial: Duration::from_secs(10), max: Duration::from_secs(300), jitter: 0.0 };

    fn key(owner: &str) -> Arc<BackOffKey> {
        Arc::new(BackOffKey { owner: owner.to_owned(), image: "app:v1".to_owned() })
    }

    fn failure(kind: ErrorKind, pull: u64) -> Failure {
        Failure { cause: Error::new(kind, "as the test says"), credentials: SecretsHash::of(&[]), pull }
    }

    fn left(back_off: &mut BackOff, key: &BackOffKey, now: Instant) -> Option<Duration> {
        back_off.get(key, &SecretsHash::of(&[]), now).map(|held| held.left)
    }

    /// Fails `times` times, each as soon as the back-off allows; returns the delays, seconds.
    fn delays(series: DelaySeries, kind: ErrorKind, times: u64) -> Vec<u64> {
        let (mut back_off, key, mut now) = (BackOff::new(series), key("pod"), Instant::now());
        (0..times)
            .map(|pull| {
                back_off.failed(&key, failure(kind, pull), now);
                let delay = left(&mut back_off, &key, now).unwrap();
                now += delay;
                delay.as_secs()
            })
            .collect()
    }

    #[test]
    fn the_series_is_kubelets() {
        assert_eq!(delays(KUBELETS, ErrorKind::Unavailable, 7), [10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn what_will_not_mend_itself_is_held_back_for_the_longest_time_at_once() {
        for kind in [ErrorKind::Denied, ErrorKind::InvalidManifest, ErrorKind::NoMatchingPlatform] {
            assert_eq!(delays(KUBELETS, kind, 2), [300, 300], "{kind}");
        }
        assert_eq!(delays(KUBELETS, ErrorKind::NotFound, 2), [10, 20]);
        let mended = Error::new(ErrorKind::Denied, "for now").with_retryable(true);
        assert!(!is_permanent(&mended));
    }

    #[test]
    fn each_tick_within_the_delay_is_held_and_the_first_after_it_is_not() {
        let (mut back_off, key, begin) = (BackOff::new(KUBELETS), key("pod"), Instant::now());
        back_off.failed(&key, failure(ErrorKind::Timeout, 1), begin);
        for tick in 0..10 {
            let expected = Some(Duration::from_secs(10 - tick));
            assert_eq!(left(&mut back_off, &key, begin + Duration::from_secs(tick)), expected);
        }
        assert_eq!(left(&mut back_off, &key, begin + Duration::from_secs(10)), None);
    }

    #[test]
    fn it_is_forgotten_after_twice_the_maximum_without_use() {
        let series =
            DelaySeries { initial: Duration::from_secs(1), max: Duration::from_secs(5), jitter: 0.0 };
        let (mut back_off, key, begin) = (BackOff::new(series), key("pod"), Instant::now());
        back_off.failed(&key, failure(ErrorKind::Timeout, 1), begin);
        assert_eq!(back_off.len(begin + Duration::from_secs(6)), 1);
        assert_eq!(back_off.len(begin + Duration::from_secs(12)), 0);

        back_off.failed(&key, failure(ErrorKind::Timeout, 2), begin);
        back_off.failed(&key, failure(ErrorKind::Timeout, 3), begin + Duration::from_secs(11));
        assert_eq!(
            left(&mut back_off, &key, begin + Duration::from_secs(11)),
            Some(Duration::from_secs(1)),
            "the series begins again"
        );
    }

    #[test]
    fn a_registry_that_asks_for_more_time_gets_it_and_is_not_forgotten_meanwhile() {
        let (mut back_off, key, begin) = (BackOff::new(KUBELETS), key("pod"), Instant::now());
        let mut asked = failure(ErrorKind::RateLimited, 1);
        asked.cause = asked.cause.with_retry_after(Duration::from_secs(3600));
        back_off.failed(&key, asked, begin);
        assert_eq!(
            left(&mut back_off, &key, begin + Duration::from_secs(3599)),
            Some(Duration::from_secs(1))
        );
        assert_eq!(left(&mut back_off, &key, begin + Duration::from_secs(3600)), None);
    }

    #[test]
    fn one_pull_counts_once_and_other_credentials_begin_anew() {
        let (mut back_off, key, now) = (BackOff::new(KUBELETS), key("pod"), Instant::now());
        back_off.failed(&key, failure(ErrorKind::Timeout, 1), now);
        back_off.failed(&key, failure(ErrorKind::Timeout, 1), now);
        assert_eq!(left(&mut back_off, &key, now), Some(Duration::from_secs(10)));

        let mended = SecretsHash::of(&[crate::service::PullSecret::docker_config_json("{}")]);
        assert!(back_off.get(&key, &mended, now).is_none());
        assert_eq!(back_off.len(now), 0);
    }

    proptest! {
        #[test]
        fn delays_keep_between_the_series_and_its_jitter(jitter in 0.0..1.0_f64, times in 1_u64..12) {
            let kubelets = delays(KUBELETS, ErrorKind::Timeout, times);
            let ours = delays(DelaySeries { jitter, ..KUBELETS }, ErrorKind::Timeout, times);
            for (exact, delay) in kubelets.into_iter().zip(ours) {
                let most = (exact as f64 * (1.0 + jitter)).ceil().min(300.0) as u64;
                prop_assert!((exact..=most).contains(&delay), "{delay} s instead of {exact} s");
            }
        }

        #[test]
        fn keys_do_not_pile_up(failures in prop::collection::vec((0_u64..50, 0_u64..400), 1..200)) {
            let (mut back_off, mut now) = (BackOff::new(KUBELETS), Instant::now());
            let mut fresh = std::collections::VecDeque::new();
            for (pull, (owner, pause)) in failures.into_iter().enumerate() {
                now += Duration::from_secs(pause);
                back_off.failed(&key(&owner.to_string()), failure(ErrorKind::Timeout, pull as u64), now);
                fresh.push_back((now, owner));
                fresh.retain(|(at, _)| now - *at <= Duration::from_secs(900));
                let owners: std::collections::HashSet<_> = fresh.iter().map(|(_, owner)| owner).collect();
                prop_assert!(back_off.entries.len() <= owners.len());
            }
        }
    }
}
