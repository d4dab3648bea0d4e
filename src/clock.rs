//! The time that waits are measured by, replaceable in tests.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, after};

/// A clock to wait by.
pub trait Clock: Send + Sync {
    /// What time it is.
    fn now(&self) -> Instant;

    /// A channel that carries one message once `delay` has passed.
    fn after(&self, delay: Duration) -> Receiver<Instant>;
}

/// The machine's monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn after(&self, delay: Duration) -> Receiver<Instant> {
        after(delay)
    }
}
