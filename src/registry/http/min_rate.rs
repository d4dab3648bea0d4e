//! The minimum rate of a body.

use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind};

/// The lowest rate that a connection may have: `bytes` in each span of `time`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct MinRate {
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
}

/// Measures a connection against its [`MinRate`].
pub(super) struct RateMeter {
    min_rate: MinRate,
    since: Instant,
    bytes: u64,
}

impl RateMeter {
    pub(super) fn new(min_rate: MinRate) -> Self {
        RateMeter { min_rate, since: Instant::now(), bytes: 0 }
    }

    /// Counts received bytes.
    ///
    /// # Errors
    /// `Timeout` if the connection is slower than the minimum rate.
    pub(super) fn count(&mut self, bytes: usize) -> Result<(), Error> {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.bytes >= self.min_rate.bytes {
            *self = RateMeter::new(self.min_rate);
        } else if self.since.elapsed() >= self.min_rate.time {
            let message = format!("only {} bytes came in {:?}", self.bytes, self.min_rate.time);
            return Err(Error::new(ErrorKind::Timeout, message));
        }
        Ok(())
    }
}
