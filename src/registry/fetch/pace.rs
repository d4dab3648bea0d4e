//! How slow a connection may be.

use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind};

/// A connection may not be slower than so many bytes in so long a time.
#[derive(Clone, Copy, Debug)]
pub(in crate::registry) struct Slowest {
    pub(in crate::registry) bytes: u64,
    pub(in crate::registry) time: Duration,
}

/// How fast bytes came lately.
pub(super) struct Pace {
    slowest: Slowest,
    since: Instant,
    bytes: u64,
}

impl Pace {
    pub(super) fn new(slowest: Slowest) -> Self {
        Pace { slowest, since: Instant::now(), bytes: 0 }
    }

    /// # Errors
    /// `Timeout` if the connection drips.
    pub(super) fn note(&mut self, bytes: u64) -> Result<(), Error> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes >= self.slowest.bytes {
            *self = Pace::new(self.slowest);
        } else if self.since.elapsed() >= self.slowest.time {
            let message = format!("{} bytes came in {} s", self.bytes, self.slowest.time.as_secs());
            return Err(Error::new(ErrorKind::Timeout, message));
        }
        Ok(())
    }
}
