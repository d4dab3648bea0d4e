//! The time that waits are measured by, replaceable in tests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, after};

/// A clock to wait by.
pub trait Clock: Send + Sync {
    /// Returns the current time.
    fn now(&self) -> Instant;

    /// Returns a channel that carries one message once `delay` has passed.
    fn after(&self, delay: Duration) -> Receiver<Instant>;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Instant {
        (**self).now()
    }

    fn after(&self, delay: Duration) -> Receiver<Instant> {
        (**self).after(delay)
    }
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
