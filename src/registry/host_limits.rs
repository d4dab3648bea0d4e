//! Limits for each host: its connections, the time after a 429 in which it is not asked, and the delays
//! between tries.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use parking_lot::Mutex;

use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::progress::ProgressEvent;
use crate::sync::{FairShare, Permit, Semaphore, Share};

/// How long a host that failed is tried after the others.
const QUARANTINE: Duration = Duration::from_secs(60);

/// Maximum number of hosts that are remembered, besides those that are being asked.
const MAX_HOSTS: usize = 4096;

/// The number of tries, and the delays between them.
#[derive(Clone, Debug)]
pub(crate) struct RetryPolicy {
    /// Rounds over all hosts.
    pub(crate) tries: u32,
    /// The delay after the first round.
    pub(crate) base: Duration,
    /// The longest delay that this client chooses.
    pub(crate) cap: Duration,
    /// The longest `Retry-After` that is followed.
    pub(crate) max_retry_after: Duration,
}

impl RetryPolicy {
    /// Returns the delay after so many failed rounds. It doubles with each round, and up to half of it is random,
    /// so that clients which failed together do not return together.
    pub(crate) fn delay_after(&self, rounds: u32) -> Duration {
        let doubled = self.base.saturating_mul(1 << rounds.saturating_sub(1).min(16));
        doubled.min(self.cap).mul_f64(0.5 + 0.5 * fastrand::f64())
    }
}

/// The round-trip time up to which many connections gain nothing: a thread starts in a twentieth of it on an idle
/// machine, and takes about as long on a busy one.
const NEAR_RTT: Duration = Duration::from_millis(2);

/// The rate above which a host counts as near; twice that of 100 Mbit/s.
const NEAR_BYTES_PER_SECOND: f64 = 25e6;

/// Minimum size of a body for a bandwidth sample, bytes. The time of a shorter one depends more on the load of this
/// machine.
const MIN_BANDWIDTH_SAMPLE: u64 = 256 << 10;

/// All hosts of a service.
#[derive(Debug)]
pub(crate) struct HostLimits {
    slots_per_host: usize,
    /// The slots of a host that answers within [`NEAR_RTT`]: there this machine is the bottleneck.
    slots_if_near: usize,
    /// The downloads of all pulls, which the hosts share.
    downloads: FairShare,
    hosts: Mutex<HashMap<String, Arc<HostState>>>,
}

#[derive(Debug)]
struct HostState {
    slots: Semaphore,
    slots_if_near: Semaphore,
    times: Mutex<Times>,
    rtt: Mutex<RttEstimate>,
}

/// The estimated round-trip time of a host.
#[derive(Debug, Default)]
struct RttEstimate {
    /// `None` before the first response.
    rtt: Option<Duration>,
    /// Present while the host answers within [`NEAR_RTT`]; disconnected when it no longer does.
    near: Option<(Sender<Infallible>, Receiver<Infallible>)>,
}

#[derive(Debug, Default)]
struct Times {
    /// The host is not asked before.
    closed_until: Option<Instant>,
    /// The response that asked for it.
    closed_because: String,
    /// The host is tried last until then.
    quarantined_until: Option<Instant>,
}

/// The permit to use a connection to a host, until dropped.
#[derive(Debug)]
pub(crate) struct HostPermit {
    _slot: Permit,
    _if_near: Option<Permit>,
    _download: Option<Share>,
    /// Keeps the host remembered while it is being asked.
    _state: Arc<HostState>,
}

impl HostLimits {
    /// Creates limits: connections to `slots_per_host`, of a near host to `if_near`, and the transfers of blobs from all
    /// hosts to `downloads`.
    pub(crate) fn new(slots_per_host: usize, if_near: usize, downloads: usize) -> Self {
        let slots_if_near = if_near.clamp(1, slots_per_host.max(1));
        let downloads = FairShare::new(downloads);
        HostLimits { slots_per_host, slots_if_near, downloads, hosts: Mutex::default() }
    }

    /// Waits until the host may be asked and a connection to it is free; for a blob, until the host may have a
    /// further download. A thread that waits holds nothing that another host needs: the share in the
    /// downloads comes last.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout`; `RateLimited` if the host stays closed past the deadline.
    pub(crate) fn admit(&self, cx: &PullContext, host: &str, is_blob: bool) -> Result<HostPermit, Error> {
        let state = self.state(host);
        loop {
            wait_at_gate(cx, host, &state)?;
            // A small document does not wait until a large body has come.
            let if_near = if is_blob { state.acquire_if_near(cx)? } else { None };
            let slot = cx.acquire(&state.slots)?;
            let waiter = is_blob.then(|| self.downloads.acquire(host));
            let download = waiter.map(|waiter| granted(cx, waiter.granted())).transpose()?;
            // The gate may have closed meanwhile.
            if state.closed_for().is_none() {
                return Ok(HostPermit { _slot: slot, _if_near: if_near, _download: download, _state: state });
            }
        }
    }

    /// Returns whether the host may have a further download now.
    pub(crate) fn has_free_download(&self, host: &str) -> bool {
        self.downloads.has_free(host)
    }

    /// Returns for how long the host has asked not to be asked, if it has.
    pub(crate) fn closed_for(&self, host: &str) -> Option<Duration> {
        self.state(host).closed_for()
    }

    /// Stops requests to the host for every pull of the service; `reason` is what the host answered.
    pub(crate) fn close(&self, host: &str, delay: Duration, reason: &str) {
        let until = Some(Instant::now() + delay);
        let state = self.state(host);
        let mut times = state.times.lock();
        if times.closed_until < until {
            times.closed_until = until;
            reason.clone_into(&mut times.closed_because);
        }
    }

    /// Has the host tried after the others for a while.
    /// Has the host tried after the others for a while.
    pub(crate) fn quarantine(&self, host: &str) {
        self.state(host).times.lock().quarantined_until = Some(Instant::now() + QUARANTINE);
    }

    /// Ends the quarantine of a host that has succeeded.
    /// Ends the quarantine of a host that has succeeded.
    pub(crate) fn release(&self, host: &str) {
        self.state(host).times.lock().quarantined_until = None;
    }

    pub(crate) fn is_quarantined(&self, host: &str) -> bool {
        self.state(host).times.lock().quarantined_until.is_some_and(|until| until > Instant::now())
    }

    /// Notes how long the host took to answer. Requests other than those of blobs count only before the first
    /// blob: blobs may come from elsewhere.
    pub(crate) fn note_answer(&self, host: &str, time: Duration, is_blob: bool) {
        let state = self.state(host);
        let mut rtt = state.rtt.lock();
        if is_blob || rtt.rtt.is_none() {
            rtt.note(time);
        }
    }

    /// Notes how long the bytes of a blob took to arrive. A host with a low rate is not near, however soon it
    /// answers. A high rate does not make a host near.
    pub(crate) fn note_body(&self, host: &str, bytes: u64, time: Duration) {
        let late = time.saturating_sub(Duration::from_secs_f64(bytes as f64 / NEAR_BYTES_PER_SECOND));
        if bytes >= MIN_BANDWIDTH_SAMPLE && late > NEAR_RTT {
            self.note_answer(host, late, true);
        }
    }

    /// Returns whether the host is known to answer within [`NEAR_RTT`].
    pub(crate) fn is_near(&self, host: &str) -> bool {
        self.state(host).is_near()
    }

    /// Returns the estimated round-trip time; `None` if the host has not answered yet.
    pub(crate) fn round_trip(&self, host: &str) -> Option<Duration> {
        self.state(host).rtt.lock().rtt
    }

    fn state(&self, host: &str) -> Arc<HostState> {
        let mut hosts = self.hosts.lock();
        if let Some(state) = hosts.get(host) {
            return Arc::clone(state);
        }
        if hosts.len() >= MAX_HOSTS {
            hosts.retain(|_, state| Arc::strong_count(state) > 1 || state.closed_for().is_some());
        }
        let state = Arc::new(HostState {
            slots: Semaphore::new(self.slots_per_host),
            slots_if_near: Semaphore::new(self.slots_if_near),
            times: Mutex::default(),
            rtt: Mutex::default(),
        });
        hosts.insert(host.to_owned(), Arc::clone(&state));
        state
    }
}

impl HostState {
    fn is_near(&self) -> bool {
        self.rtt.lock().near.is_some()
    }

    /// Waits for one of the slots of a near host, or until the host is no longer near.
    fn acquire_if_near(&self, cx: &PullContext) -> Result<Option<Permit>, Error> {
        let near = self.rtt.lock().near.as_ref().map(|(_, near)| near.clone());
        let Some(near) = near else { return Ok(None) };
        let waiter = self.slots_if_near.acquire();
        if let Ok(permit) = waiter.granted().try_recv() {
            return Ok(Some(permit));
        }
        select! {
            recv(waiter.granted()) -> permit => Ok(permit.ok()),
            recv(near) -> _ => Ok(None),
            recv(cx.cancelled()) -> _ => Err(cx.ended()),
            recv(cx.expired()) -> _ => Err(cx.ended()),
        }
    }

    fn closed_for(&self) -> Option<Duration> {
        let left = self.times.lock().closed_until?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }
}

impl RttEstimate {
    fn note(&mut self, time: Duration) {
        let rtt = match self.rtt {
            // A slow response has little weight: a busy machine may have delayed it on this side.
            Some(before) if before < time => before + (time - before) / 8,
            _ => time,
        };
        self.rtt = Some(rtt);
        let is_near = rtt <= NEAR_RTT;
        if is_near != self.near.is_some() {
            self.near = is_near.then(|| bounded(0));
        }
    }
}

/// Waits for the one message of a channel that a permit arrives in.
///
/// # Errors
/// `Cancelled`, `Timeout`.
pub(super) fn granted<T>(cx: &PullContext, channel: &Receiver<T>) -> Result<T, Error> {
    if let Ok(permit) = channel.try_recv() {
        return Ok(permit);
    }
    cx.wait_for(channel)?
        .ok_or_else(|| Error::new(ErrorKind::ResourceExhausted, "no permit is granted any more"))
}

fn wait_at_gate(cx: &PullContext, host: &str, state: &HostState) -> Result<(), Error> {
    while let Some(delay) = state.closed_for() {
        if cx.remaining().is_some_and(|left| left < delay) {
            return Err(Error::new(
                ErrorKind::RateLimited,
                "the host asks to wait longer than the deadline allows",
            )
            .with_host(host)
            .with_retry_after(delay));
        }
        let reason = state.times.lock().closed_because.clone();
        cx.report(&ProgressEvent::Waiting { host: host.to_owned(), reason, delay });
        cx.sleep(delay)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Response times in milliseconds, and whether each was of a blob.
    type Answers = &'static [(u64, bool)];

    fn answered(answers: Answers) -> bool {
        let host_limits = HostLimits::new(16, 4, 32);
        for (millis, is_blob) in answers {
            host_limits.note_answer("host", Duration::from_millis(*millis), *is_blob);
        }
        host_limits.is_near("host")
    }

    #[test]
    fn the_response_times_of_blobs_decide_whether_a_host_is_near() {
        let cases: &[(Answers, bool, &str)] = &[
            (&[], false, "no response yet"),
            (&[(1, false)], true, "only a manifest so far"),
            (&[(1, true)], true, "a fast blob"),
            (&[(20, true)], false, "a slow blob"),
            (&[(1, false), (20, true)], false, "a fast manifest and a slow blob"),
            (&[(1, false), (20, true), (1, false)], false, "a later manifest does not count"),
            (&[(1, true), (8, true)], true, "one slow response"),
            (&[(1, true), (8, true), (8, true)], false, "two slow responses"),
            (&[(20, true), (1, true)], true, "a fast response after a slow one"),
        ];
        for (answers, soon, why) in cases {
            assert_eq!(answered(answers), *soon, "{why}: {answers:?}");
        }
    }

    #[test]
    fn a_slow_large_body_makes_a_host_far_and_no_body_makes_one_near() {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        // Response time in milliseconds, bytes of the body, its time in milliseconds.
        let cases = [
            (1, MIB, 200, false, "40 Mbit/s"),
            (1, MIB, 84, false, "100 Mbit/s"),
            (1, 16 * MIB, 1342, false, "100 Mbit/s for a while"),
            (1, 256 * KIB, 84, false, "25 Mbit/s"),
            (1, MIB, 30, true, "280 Mbit/s"),
            (1, 16 * MIB, 20, true, "from this machine"),
            (1, 10 * KIB, 20, true, "a small body on a busy machine"),
            (20, 16 * MIB, 20, false, "a long and fast way"),
        ];
        for (answered, bytes, came, soon, what) in cases {
            let host_limits = HostLimits::new(16, 4, 32);
            host_limits.note_answer("host", Duration::from_millis(answered), true);
            host_limits.note_body("host", bytes, Duration::from_millis(came));
            assert_eq!(host_limits.is_near("host"), soon, "{what}");
        }
    }

    #[test]
    fn a_near_host_has_fewer_slots() {
        let host_limits = HostLimits::new(3, 2, 32);
        let hurried = PullContext::new().with_timeout(Duration::from_millis(20));
        let fits = |count: usize| {
            let taken: Vec<_> = (0..count).map(|_| host_limits.admit(&hurried, "host", true)).collect();
            taken.iter().all(Result::is_ok)
        };
        assert!(fits(3));
        host_limits.note_answer("host", Duration::from_millis(1), true);
        assert!(fits(2));
        assert!(!fits(3));
    }

    #[test]
    fn a_wait_for_a_slot_of_a_near_host_ends_when_the_host_is_no_longer_near() {
        let host_limits = HostLimits::new(2, 1, 32);
        let cx = PullContext::new().with_timeout(Duration::from_secs(20));
        host_limits.note_answer("host", Duration::from_millis(1), true);
        let _kept = host_limits.admit(&cx, "host", true).unwrap();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| host_limits.admit(&cx, "host", true).map(drop));
            host_limits.note_answer("host", Duration::from_millis(100), true);
            assert!(waiter.join().unwrap().is_ok());
        });
    }
}
