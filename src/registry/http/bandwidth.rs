//! The bandwidth limit, as one exchange keeps to it.
//!
//! What is read from a connection is charged. A body waits before each read until the charges up to its last one
//! are covered. So no byte that was read waits in memory, where a cancel would lose it. A body's first read waits
//! for all that was charged before; so many small bodies keep to the limit as one large one does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{after, select};
use parking_lot::Mutex;

use super::min_rate::RateMeter;
use crate::context::PullContext;
use crate::error::Error;
use crate::sync::{Charge, RateLimit};

/// One read takes at most the bytes of this part of a second, so that a server sees that it is read from, however
/// many connections share the limit.
const READS_PER_SECOND: u64 = 40;

/// The smallest number of bytes that a read is limited to.
const SMALLEST_READ: u64 = 512;

/// A connection's receive buffer holds the bytes of this part of a second: the system lets it grow to megabytes
/// otherwise, which arrive at once. Sixteen connections keep to the limit up to a round trip of a quarter of a
/// second.
const BUFFERS_PER_SECOND: u64 = 64;

/// Smaller buffers are slow where segments are large: those of a loopback device have 64 KiB.
const SMALLEST_BUFFER: u64 = 64 << 10;
const LARGEST_BUFFER: u64 = 4 << 20;

/// One exchange's part in the limit.
#[derive(Debug)]
pub(super) struct Pace {
    limit: Arc<RateLimit>,
    state: Mutex<BandwidthState>,
}

#[derive(Debug, Default)]
struct BandwidthState {
    /// The last charge, until it was waited for.
    last: Option<Charge>,
    waited: Duration,
}

impl Pace {
    pub(super) fn new(limit: Arc<RateLimit>) -> Self {
        Pace { limit, state: Mutex::default() }
    }

    /// Returns how much one read may take, bytes.
    pub(super) fn largest_read(&self) -> usize {
        match self.limit.rate() {
            0 => usize::MAX,
            rate => usize::try_from((rate / READS_PER_SECOND).max(SMALLEST_READ)).unwrap_or(usize::MAX),
        }
    }

    /// Returns the size of the connection's receive buffer, bytes, for a connection that has a limit or had
    /// one; without one the system chooses it.
    pub(super) fn receive_buffer(&self) -> usize {
        let size = match self.limit.rate() {
            0 => LARGEST_BUFFER,
            rate => (rate / BUFFERS_PER_SECOND).clamp(SMALLEST_BUFFER, LARGEST_BUFFER),
        };
        usize::try_from(size).unwrap_or(usize::MAX)
    }

    /// Returns whether there is a limit.
    pub(super) fn is_limited(&self) -> bool {
        self.limit.rate() > 0
    }

    /// Charges bytes that were read.
    pub(super) fn charge(&self, bytes: usize) {
        let charge = self.limit.charge(bytes as u64);
        if charge.is_some() {
            self.state.lock().last = charge;
        }
    }

    /// Waits until the last charge is covered, with the body's minimum rate suspended.
    ///
    /// # Errors
    /// `Cancelled` or `Timeout`, as soon as the pull ends.
    pub(super) fn wait(&self, cx: &PullContext, meter: &RateMeter) -> Result<(), Error> {
        if self.limit.rate() == 0 {
            return Ok(());
        }
        let last = self.state.lock().last.take();
        let Some(charge) = last.or_else(|| self.limit.charge(0)) else { return Ok(()) };
        let began = Instant::now();
        let mut pause = None;
        while let Some(due) = self.limit.due(charge) {
            pause.get_or_insert_with(|| meter.pause());
            select! {
                recv(due.changed) -> _ => {}
                recv(after(due.after)) -> _ => {}
                recv(cx.cancelled()) -> _ => return Err(cx.ended()),
                recv(cx.expired()) -> _ => return Err(cx.ended()),
            }
        }
        if pause.is_some() {
            self.state.lock().waited += began.elapsed();
        }
        Ok(())
    }

    /// Returns how long the exchange has waited.
    pub(super) fn waited(&self) -> Duration {
        self.state.lock().waited
    }
}
