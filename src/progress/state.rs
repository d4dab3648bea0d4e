//! The progress of a pull, as the sum of its events.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::event::ProgressEvent;
use super::rate::Rate;
use crate::image::digest::Digest;

/// How far a pull is: the sum of its [events](ProgressEvent).
///
/// Apply every event of one pull, in the order in which they arrive. Layers that are unpacked are not part of the sum.
///
/// ```
/// use oci_puller::progress::{ProgressEvent, ProgressState};
///
/// let mut state = ProgressState::new();
/// let manifest: oci_puller::image::Digest = format!("sha256:{:064}", 1).parse()?;
/// let host = "registry.example.com".to_owned();
/// state.apply(&ProgressEvent::Resolved { host, manifest: manifest.clone(), blobs: 1, bytes: 1000 });
/// state.apply(&ProgressEvent::BlobAdvanced { digest: manifest, bytes: 250 });
/// assert_eq!((state.done(), state.total()), (250, 1000));
/// # Ok::<(), oci_puller::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct ProgressState {
    total: u64,
    /// Bytes of complete blobs.
    complete: u64,
    incomplete: HashMap<Digest, Incomplete>,
    received: u64,
    /// Of the received bytes; `None` before the first.
    rate: Option<Rate>,
}

/// The bytes of a blob that is not complete.
#[derive(Clone, Copy, Debug, Default)]
struct Incomplete {
    /// From an earlier pull.
    offset: u64,
    received: u64,
}

impl Incomplete {
    fn bytes(self) -> u64 {
        self.offset.saturating_add(self.received)
    }
}

impl ProgressState {
    /// Returns the state of a pull without events.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event.
    pub fn apply(&mut self, event: &ProgressEvent) {
        self.apply_at(event, Instant::now());
    }

    fn apply_at(&mut self, event: &ProgressEvent, now: Instant) {
        match event {
            // The images of several platforms add up.
            ProgressEvent::Resolved { bytes, .. } => self.total = self.total.saturating_add(*bytes),
            ProgressEvent::BlobReused { size, .. } => self.complete = self.complete.saturating_add(*size),
            // A repeated event may be a little ahead of the bytes that were reported.
            ProgressEvent::BlobStarted { digest, offset, .. } => {
                self.incomplete.entry(digest.clone()).or_insert(Incomplete { offset: *offset, received: 0 });
            }
            ProgressEvent::BlobAdvanced { digest, bytes } => {
                let blob = self.incomplete.entry(digest.clone()).or_default();
                blob.received = blob.received.saturating_add(*bytes);
                let rate = self.rate.get_or_insert_with(|| Rate::new(now, self.received));
                rate.note(now, self.received);
                self.received = self.received.saturating_add(*bytes);
            }
            ProgressEvent::BlobRestarted { digest, .. } => {
                let lost = self.incomplete.insert(digest.clone(), Incomplete::default()).unwrap_or_default();
                self.received = self.received.saturating_sub(lost.received);
            }
            ProgressEvent::BlobDone { digest } => {
                let blob = self.incomplete.remove(digest).unwrap_or_default();
                self.complete = self.complete.saturating_add(blob.bytes());
            }
            _ => {}
        }
    }

    /// Returns the bytes of the image that are in the store; never more than [`total`](Self::total).
    ///
    /// A layer that the image has twice, or that another pull fetched, counts once: after a successful pull this may be
    /// less than the total.
    pub fn done(&self) -> u64 {
        let incomplete = self.incomplete.values().fold(0_u64, |sum, blob| sum.saturating_add(blob.bytes()));
        self.complete.saturating_add(incomplete).min(self.total)
    }

    /// Returns the size of the image, bytes; 0 while it is not known.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Returns the bytes that this pull received and kept.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Returns the average of the last 5 to 10 s, bytes per second; 0 while it is not known.
    pub fn rate(&self) -> u64 {
        self.rate_at(Instant::now())
    }

    fn rate_at(&self, now: Instant) -> u64 {
        self.rate.as_ref().map_or(0, |rate| rate.per_second(now, self.received))
    }

    /// Returns how long the rest takes at the current [`rate`](Self::rate), rounded up to a second; `None` while that
    /// is not known.
    pub fn time_left(&self) -> Option<Duration> {
        time_left(self.total.saturating_sub(self.done()), self.rate()).filter(|_| self.total > 0)
    }
}

fn time_left(bytes: u64, per_second: u64) -> Option<Duration> {
    (per_second > 0).then(|| Duration::from_secs(bytes.div_ceil(per_second)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(number: u8) -> Digest {
        Digest::sha256(&[number])
    }

    fn started(number: u8, offset: u64) -> ProgressEvent {
        ProgressEvent::BlobStarted { digest: digest(number), size: 1000, offset, host: String::new() }
    }

    fn resolved(bytes: u64) -> ProgressEvent {
        ProgressEvent::Resolved { host: String::new(), manifest: digest(0), blobs: 3, bytes }
    }

    #[test]
    fn each_byte_counts_once() {
        let (one, two) = (digest(1), digest(2));
        let mut state = ProgressState::new();
        for (event, done, received) in [
            (ProgressEvent::Started, 0, 0),
            (resolved(2000), 0, 0),
            (ProgressEvent::BlobReused { digest: two, size: 1000 }, 1000, 0),
            (started(1, 300), 1300, 0),
            (ProgressEvent::BlobAdvanced { digest: one.clone(), bytes: 200 }, 1500, 200),
            (started(1, 520), 1500, 200),
            (ProgressEvent::BlobRestarted { digest: one.clone(), bytes: 500 }, 1000, 0),
            (ProgressEvent::BlobAdvanced { digest: one.clone(), bytes: 1000 }, 2000, 1000),
            (ProgressEvent::UnpackAdvanced { digest: one.clone(), bytes: 1000 }, 2000, 1000),
            (ProgressEvent::BlobDone { digest: one }, 2000, 1000),
            (resolved(500), 2000, 1000),
        ] {
            state.apply(&event);
            assert_eq!((state.done(), state.received()), (done, received), "after {event:?}");
        }
        assert_eq!(state.total(), 2500);
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let began = Instant::now();
        let mut state = ProgressState::new();
        state.apply_at(&resolved(100_000), began);
        for second in 0..20 {
            let event = ProgressEvent::BlobAdvanced { digest: digest(1), bytes: 100 * (1 + second / 10) };
            state.apply_at(&event, began + Duration::from_secs(second));
        }
        let rate = state.rate_at(began + Duration::from_secs(20));
        assert!((190..=220).contains(&rate), "{rate}");
        assert_eq!(time_left(1001, 100), Some(Duration::from_secs(11)));
        assert_eq!(time_left(1, 0), None);
    }

    proptest! {
        #[test]
        fn no_order_of_events_is_too_much(numbers in prop::collection::vec((0_u8..7, 0_u8..3, any::<u64>()), 0..40)) {
            let mut state = ProgressState::new();
            for (kind, blob, bytes) in numbers {
                let digest = digest(blob);
                state.apply(&match kind {
                    0 => resolved(bytes),
                    1 => started(blob, bytes),
                    2 => ProgressEvent::BlobReused { digest, size: bytes },
                    3 => ProgressEvent::BlobRestarted { digest, bytes },
                    4 => ProgressEvent::BlobDone { digest },
                    _ => ProgressEvent::BlobAdvanced { digest, bytes },
                });
                prop_assert!(state.done() <= state.total());
            }
        }
    }
}
