//! The minimum rate of bodies.
//!
//! It is measured over all bodies that one pull reads from one host, since connections that share a slow link slow each
//! other down.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind};

/// The lowest rate that is accepted: `bytes` in each span of `time`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct MinRate {
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
}

/// The rate of all bodies that one pull reads from one host.
#[derive(Debug, Default)]
pub(crate) struct SharedRate(Mutex<RateState>);

#[derive(Debug, Default)]
struct RateState {
    /// Bodies that are being read.
    readers: usize,
    /// When the current span began; meaningful while there are readers.
    since: Option<Instant>,
    bytes: u64,
    /// Bodies that wait for the bandwidth limit, and since when there is one. That time does not count.
    paused: usize,
    paused_since: Option<Instant>,
    /// Counts the spans that were too slow. They end all bodies that were being read.
    too_slow: u64,
}

/// Measures one body, as a part of its [`SharedRate`], until it is dropped.
#[derive(Debug)]
pub(super) struct RateMeter {
    min_rate: MinRate,
    shared: Arc<SharedRate>,
    /// How many spans were too slow when the body began.
    joined_at: u64,
}

impl RateMeter {
    pub(super) fn new(min_rate: MinRate, shared: Arc<SharedRate>) -> Self {
        let joined_at = {
            let mut state = shared.0.lock();
            state.readers += 1;
            if state.readers == 1 {
                state.restart();
            }
            state.too_slow
        };
        RateMeter { min_rate, shared, joined_at }
    }

    /// Measures the body as a part of `shared` from now on.
    pub(super) fn join(&mut self, shared: &Arc<SharedRate>) {
        *self = RateMeter::new(self.min_rate, Arc::clone(shared));
    }

    /// Counts received bytes.
    ///
    /// # Errors
    /// `Timeout` if the bodies together are slower than the minimum rate.
    pub(super) fn count(&mut self, bytes: usize) -> Result<(), Error> {
        let mut state = self.shared.0.lock();
        state.bytes = state.bytes.saturating_add(bytes as u64);
        let came = state.bytes;
        let now = state.paused_since.unwrap_or_else(Instant::now);
        let is_over =
            state.since.is_some_and(|since| now.saturating_duration_since(since) >= self.min_rate.time);
        if came >= self.min_rate.bytes {
            state.restart();
        } else if is_over {
            state.too_slow += 1;
            state.restart();
        }
        if state.too_slow == self.joined_at {
            return Ok(());
        }
        let MinRate { bytes, time } = self.min_rate;
        let message = format!("the host sent fewer than {bytes} bytes in {time:?}");
        Err(Error::new(ErrorKind::Timeout, message))
    }
}

impl RateMeter {
    /// Stops the time until the returned guard is dropped: it is not the host that is waited for.
    pub(super) fn pause(&self) -> Pause<'_> {
        let mut state = self.shared.0.lock();
        state.paused += 1;
        state.paused_since.get_or_insert_with(Instant::now);
        Pause(&self.shared)
    }
}

/// Stops the time of a [`SharedRate`].
#[derive(Debug)]
pub(super) struct Pause<'a>(&'a SharedRate);

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.paused -= 1;
        if state.paused == 0
            && let Some(paused) = state.paused_since.take()
        {
            // A span that has begun meanwhile has lost only a part of the pause.
            let lost = |since: Instant| since.max(paused).elapsed();
            state.since = state.since.and_then(|since| since.checked_add(lost(since)));
        }
    }
}

impl Drop for RateMeter {
    fn drop(&mut self) {
        self.shared.0.lock().readers -= 1;
    }
}

impl RateState {
    fn restart(&mut self) {
        (self.since, self.bytes) = (Some(Instant::now()), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG_AGO: MinRate = MinRate { bytes: 1000, time: Duration::ZERO };

    #[test]
    fn bodies_are_judged_together() {
        let shared = Arc::new(SharedRate::default());
        let min_rate = MinRate { bytes: 1000, time: Duration::from_secs(1000) };
        let mut bodies: Vec<_> = (0..8).map(|_| RateMeter::new(min_rate, Arc::clone(&shared))).collect();
        for body in &mut bodies[..4] {
            body.count(200).unwrap();
        }
        // The time is over, and together they brought enough.
        bodies.iter_mut().for_each(|body| body.min_rate = LONG_AGO);
        bodies[4].count(200).unwrap();
        bodies[5].min_rate = min_rate;
        bodies[5].count(1).unwrap();
    }

    #[test]
    fn a_host_that_drips_ends_all_bodies_and_the_next_ones_begin_anew() {
        let shared = Arc::new(SharedRate::default());
        let mut bodies: Vec<_> = (0..3).map(|_| RateMeter::new(LONG_AGO, Arc::clone(&shared))).collect();
        let error = bodies[0].count(10).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert_eq!(bodies[1].count(2000).unwrap_err().kind(), ErrorKind::Timeout);
        let mut next = RateMeter::new(LONG_AGO, Arc::clone(&shared));
        next.count(1000).unwrap();
        assert_eq!(bodies[2].count(1).unwrap_err().kind(), ErrorKind::Timeout);
    }

    #[test]
    fn a_pause_stops_the_time_for_all_bodies() {
        let shared = Arc::new(SharedRate::default());
        let mut bodies: Vec<_> = (0..2).map(|_| RateMeter::new(LONG_AGO, Arc::clone(&shared))).collect();
        let (slow, paused) = bodies.split_at_mut(1);
        slow[0].min_rate.time = Duration::from_millis(20);
        let since = || shared.0.lock().since.unwrap();
        let before = since();
        let pauses = [paused[0].pause(), paused[0].pause()];
        std::thread::sleep(Duration::from_millis(30));
        slow[0].count(1).unwrap();
        drop(pauses);
        slow[0].count(1).unwrap();
        assert!(since() >= before + Duration::from_millis(30));
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(slow[0].count(1).unwrap_err().kind(), ErrorKind::Timeout);
    }

    #[test]
    fn the_time_in_which_no_body_is_read_does_not_count() {
        let shared = Arc::new(SharedRate::default());
        drop(RateMeter::new(LONG_AGO, Arc::clone(&shared)));
        let before = shared.0.lock().since;
        let _next = RateMeter::new(LONG_AGO, Arc::clone(&shared));
        assert!(shared.0.lock().since > before);
    }
}
