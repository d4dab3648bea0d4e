//! How slow a connection may be.

use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind};

/// A connection may not be slower than so many bytes in so long a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Slowest {
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
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

    /// Counts bytes that came.
    ///
    /// # Errors
    /// `Timeout` if the connection drips.
    pub(super) fn note(&mut self, bytes: usize) -> Result<(), Error> {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.bytes >= self.slowest.bytes {
            *self = Pace::new(self.slowest);
        } else if self.since.elapsed() >= self.slowest.time {
            let message = format!("only {} bytes came in {:?}", self.bytes, self.slowest.time);
            return Err(Error::new(ErrorKind::Timeout, message));
        }
        Ok(())
    }
}
