//! What keeps us polite and patient: a host's slots, its gate after a 429, and the delays between
//! tries.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use parking_lot::Mutex;

use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::progress::ProgressEvent;

/// A host that failed is tried after the others for this long.
const DISTRUST: Duration = Duration::from_secs(60);

/// No more hosts than this are remembered, unless they are being asked.
const MAX_HOSTS: usize = 4096;

/// How often, and after what delays, something is tried again.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    /// Rounds over all hosts.
    pub(crate) tries: u32,
    /// The delay after the first round.
    pub(crate) base: Duration,
    /// No delay of our own is longer.
    pub(crate) cap: Duration,
    /// No `Retry-After` is followed for longer.
    pub(crate) max_retry_after: Duration,
}

impl Patience {
    /// The delay after this many rounds that failed: doubled each time, and up to half of it left to
    /// chance, lest all who failed together come back together.
    pub(crate) fn delay_after(&self, rounds: u32) -> Duration {
        let doubled = self.base.saturating_mul(1 << rounds.saturating_sub(1).min(16));
        doubled.min(self.cap).mul_f64(0.5 + 0.5 * fastrand::f64())
    }
}

/// All hosts of a service.
#[derive(Debug)]
pub(crate) struct Governor {
    slots_per_host: usize,
    hosts: Mutex<HashMap<String, Arc<HostState>>>,
}

#[derive(Debug)]
struct HostState {
    slots: Slots,
    times: Mutex<Times>,
}

#[derive(Debug, Default)]
struct Times {
    /// Nobody asks the host before.
    closed_until: Option<Instant>,
    /// What it answered when it asked for that.
    closed_because: String,
    /// The host is tried last until then.
    distrusted_until: Option<Instant>,
}

/// A number of places, each of which one may have at a time.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    taken: Sender<()>,
    given_back: Receiver<()>,
}

/// A place among [`Slots`], until dropped.
#[derive(Debug)]
pub(crate) struct Slot(Slots);

impl Slots {
    pub(crate) fn new(places: usize) -> Self {
        let (taken, given_back) = bounded(places);
        Slots { taken, given_back }
    }

    /// Waits for a place.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout`.
    pub(crate) fn acquire(&self, cx: &PullContext) -> Result<Slot, Error> {
        if self.taken.try_send(()).is_err() {
            select! {
                send(self.taken, ()) -> _ => {}
                recv(cx.cancelled()) -> _ => return Err(cx.ended()),
                recv(cx.expired()) -> _ => return Err(cx.ended()),
            }
        }
        Ok(Slot(self.clone()))
    }

    /// A place, if one is free now.
    pub(crate) fn try_acquire(&self) -> Option<Slot> {
        self.taken.try_send(()).is_ok().then(|| Slot(self.clone()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let _ = self.0.given_back.try_recv();
    }
}

impl Governor {
    pub(crate) fn new(slots_per_host: usize) -> Self {
        Governor { slots_per_host, hosts: Mutex::default() }
    }

    /// Waits until the host may be asked, and a connection to it is free.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout`; `RateLimited` if the host stays closed past the deadline.
    pub(crate) fn admit(&self, cx: &PullContext, host: &str) -> Result<Slot, Error> {
        let state = self.state(host);
        loop {
            wait_at_gate(cx, host, &state)?;
            let slot = state.slots.acquire(cx)?;
            // The gate may have closed while there was no slot.
            if state.closed_for().is_none() {
                return Ok(slot);
            }
        }
    }

    /// For how long the host asks to be left alone, if it does.
    pub(crate) fn closed_for(&self, host: &str) -> Option<Duration> {
        self.state(host).closed_for()
    }

    /// Closes the host's gate for every pull of the service; `reason` is what the host answered.
    pub(crate) fn close(&self, host: &str, delay: Duration, reason: &str) {
        let until = Some(Instant::now() + delay);
        let state = self.state(host);
        let mut times = state.times.lock();
        if times.closed_until < until {
            times.closed_until = until;
            reason.clone_into(&mut times.closed_because);
        }
    }

    pub(crate) fn distrust(&self, host: &str) {
        self.state(host).times.lock().distrusted_until = Some(Instant::now() + DISTRUST);
    }

    pub(crate) fn trust(&self, host: &str) {
        self.state(host).times.lock().distrusted_until = None;
    }

    pub(crate) fn is_distrusted(&self, host: &str) -> bool {
        self.state(host).times.lock().distrusted_until.is_some_and(|until| until > Instant::now())
    }

    fn state(&self, host: &str) -> Arc<HostState> {
        let mut hosts = self.hosts.lock();
        if let Some(state) = hosts.get(host) {
            return Arc::clone(state);
        }
        if hosts.len() >= MAX_HOSTS {
            hosts.retain(|_, state| Arc::strong_count(state) > 1 || state.closed_for().is_some());
        }
        let state = Arc::new(HostState { slots: Slots::new(self.slots_per_host), times: Mutex::default() });
        hosts.insert(host.to_owned(), Arc::clone(&state));
        state
    }
}

impl HostState {
    fn closed_for(&self) -> Option<Duration> {
        let left = self.times.lock().closed_until?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }
}

fn wait_at_gate(cx: &PullContext, host: &str, state: &HostState) -> Result<(), Error> {
    while let Some(delay) = state.closed_for() {
        if cx.remaining().is_some_and(|left| left < delay) {
            return Err(Error::new(
                ErrorKind::RateLimited,
                "the host asks for more patience than the deadline has",
            )
            .with_host(host)
            .with_retry_after(delay));
        }
        let reason = state.times.lock().closed_because.clone();
        cx.report(&ProgressEvent::Waiting { host, reason: &reason, delay });
        cx.sleep(delay)?;
    }
    Ok(())
}
