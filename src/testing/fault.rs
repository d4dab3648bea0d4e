//! Faults: the requests that they hit, how often, and their actions.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::record::{SeenRequest, Target};
use super::wait::Gate;

/// A fault: its actions, the requests that it hits, and how often. Added by
/// [`Registry::fault`](super::Registry::fault).
///
/// Without [`skip`](Self::skip) and [`times`](Self::times) each request that fits is hit. Requests
/// that the registry refuses for lack of credentials are not hit: the challenge is sent complete.
#[derive(Clone)]
#[must_use = "a fault does nothing until a registry is given it"]
pub struct Fault {
    conditions: Vec<Condition>,
    skip: u64,
    times: u64,
    actions: Vec<Action>,
}

type Condition = Arc<dyn Fn(&SeenRequest) -> bool + Send + Sync>;

impl Fault {
    /// Hits requests for `target`.
    pub fn on(target: Target) -> Self {
        Fault::anywhere().when(move |request| request.target == target)
    }

    /// Hits every request.
    pub fn anywhere() -> Self {
        Fault { conditions: Vec::new(), skip: 0, times: u64::MAX, actions: Vec::new() }
    }

    /// Hits only requests with this method, like `HEAD`.
    pub fn method(self, method: impl Into<String>) -> Self {
        let method = method.into();
        self.when(move |request| request.method.eq_ignore_ascii_case(&method))
    }

    /// Hits only requests whose path contains `text`: a repository, a tag or a digest.
    pub fn path_containing(self, text: impl Into<String>) -> Self {
        let text = text.into();
        self.when(move |request| request.path.contains(&text))
    }

    /// Hits only requests for which `condition` is true.
    pub fn when(mut self, condition: impl Fn(&SeenRequest) -> bool + Send + Sync + 'static) -> Self {
        self.conditions.push(Arc::new(condition));
        self
    }

    /// Lets the first `count` requests that fit pass. Default: 0.
    pub fn skip(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// Hits at most `count` requests. Default: no limit.
    pub fn times(mut self, count: u64) -> Self {
        self.times = count;
        self
    }

    /// Adds an action. Several actions, and several faults, act in the order they were given.
    pub fn with(mut self, action: Action) -> Self {
        self.actions.push(action);
        self
    }

    fn fits(&self, request: &SeenRequest) -> bool {
        self.conditions.iter().all(|condition| condition(request))
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault")
            .field("skip", &self.skip)
            .field("times", &self.times)
            .field("actions", &self.actions)
            .finish_non_exhaustive()
    }
}

/// What a fault does to a response.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Delays the response by this time.
    Delay(Duration),
    /// Sends the body at this rate, bytes per second.
    Pace(u64),
    /// Sends the body in pieces of `bytes`, one piece every `every`.
    Drip {
        /// The size of a piece, bytes.
        bytes: usize,
        /// The time between the starts of two pieces.
        every: Duration,
    },
    /// Holds the response at this stage until [`FaultHandle::release`], or until the client goes away.
    Hold(Stage),
    /// Closes the connection after this many bytes of the body; TLS is not closed properly.
    Cut(u64),
    /// Closes the connection after a random number of bytes from this range, a new one each time.
    CutWithin(Range<u64>),
    /// Resets the connection at this stage. The client may lose bytes it had not read yet.
    Reset(Stage),
    /// Flips a bit of each byte at this offset of the blob or document, whichever part of it is
    /// asked for.
    Corrupt(u64),
    /// Sends this number of additional bytes, and counts them in `Content-Length`; with
    /// `u64::MAX`, until the client closes the connection.
    Longer(u64),
    /// Answers with this status and the error body that registries send with it.
    Status(u16),
    /// Answers with this body instead.
    Body(Vec<u8>),
    /// Sets a header, and replaces those of the same name. A `Content-Length` is sent as given.
    Header(String, String),
    /// Adds a header beside those of the same name.
    AddHeader(String, String),
    /// Omits a header. Without a `Content-Length` the body ends with the connection.
    NoHeader(String),
    /// Sends the body in chunks, without a `Content-Length`.
    Chunked,
    /// Redirects (307) to this URL; `{path}` in it stands for the requested path and query.
    Redirect(String),
    /// Answers a request for a range with the whole blob.
    IgnoreRange,
}

impl Action {
    /// Sets a header, in place of all of that name.
    pub fn header(name: impl Into<String>, value: impl Into<String>) -> Self {
        Action::Header(name.into(), value.into())
    }
}

/// The progress of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Nothing was sent.
    BeforeHead,
    /// Half of status line and headers was sent.
    InHead,
    /// This many bytes of this answer's body were sent.
    Body(u64),
}

/// A handle to a fault of a registry: counts its hits, and removes it.
///
/// Dropping the handle leaves the fault in force.
#[derive(Clone, Debug)]
pub struct FaultHandle(pub(super) Arc<Rule>);

impl FaultHandle {
    /// Returns the number of requests that it hit.
    pub fn fired(&self) -> u64 {
        self.0.counts.lock().fired
    }

    /// Waits until it hit `count` requests. Returns false after `timeout`.
    pub fn wait_fired(&self, count: u64, timeout: Duration) -> bool {
        let mut counts = self.0.counts.lock();
        self.0.changed.wait_while_for(&mut counts, |counts| counts.fired < count, timeout);
        counts.fired >= count
    }

    /// Releases the requests that [`Action::Hold`] holds, and lets later ones pass.
    pub fn release(&self) {
        self.0.gate.open();
    }

    /// Ends the fault for later requests. A request that was hit already runs its course.
    pub fn remove(&self) {
        self.0.counts.lock().removed = true;
    }
}

/// A fault in force.
#[derive(Debug)]
pub(super) struct Rule {
    fault: Fault,
    counts: Mutex<FaultCounts>,
    changed: Condvar,
    pub(super) gate: Gate,
}

#[derive(Debug, Default)]
struct FaultCounts {
    matched: u64,
    fired: u64,
    removed: bool,
}

impl Rule {
    pub(super) fn new(fault: Fault) -> Self {
        Rule { fault, counts: Mutex::default(), changed: Condvar::new(), gate: Gate::default() }
    }

    /// Counts the request, and returns whether the fault hits it.
    pub(super) fn hits(&self, request: &SeenRequest) -> bool {
        if !self.fault.fits(request) {
            return false;
        }
        let mut counts = self.counts.lock();
        counts.matched += 1;
        let is_hit = !counts.removed && counts.matched > self.fault.skip && counts.fired < self.fault.times;
        if is_hit {
            counts.fired += 1;
            self.changed.notify_all();
        }
        is_hit
    }

    pub(super) fn actions(&self) -> &[Action] {
        &self.fault.actions
    }
}
