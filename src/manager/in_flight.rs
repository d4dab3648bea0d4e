//! The manager's state: the pulls in flight, the requests that wait for them, and the images in back-off.
//! A plain value behind one lock; nothing here calls other code.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff::{BackOff, BackedOff, Failure};
use super::metrics::ManagerMetrics;
use super::records::PullRecord;
use super::schedule::{Rank, Schedule};
use super::shared_pull::{
    Arrival, Ends, Notify, ParsedRequest, ProgressFanout, PullKey, PullOutcome, PullStage, SharedPull,
    Waiter, WaiterId,
};
use super::throttle::ThrottleMode;
use crate::context::{CancelToken, PullContext};
use crate::error::ErrorKind;
use crate::service::PullRequest;
use crate::sync::TokenBucket;

/// How long a submitted request that is not decided yet holds back the pulls of later requests. Bounds what a
/// look-up that hangs costs other requests.
const ORDER_WAIT: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) is_open: bool,
    pub(super) back_off: BackOff,
    pub(super) metrics: ManagerMetrics,
    schedule: Schedule,
    /// `None` is no throttle.
    throttle: Option<TokenBucket>,
    /// When the throttle has a token for the pull that waits for one, by the manager's clock.
    next_token_at: Option<Instant>,
    /// Until when the first pull waits for an earlier request, by the system's clock.
    held_back_until: Option<Instant>,
    pulls: HashMap<u64, SharedPull>,
    /// The pulls that take more waiters.
    joinable: HashMap<Arc<PullKey>, u64>,
    /// Submitted requests for which the manager has not looked for the image yet, and until when they hold
    /// later pulls back.
    undecided: BTreeMap<Rank, Instant>,
    waiters: usize,
    pulls_ended: u64,
    last_number: u64,
}

/// Why a request gets no pull now.
#[derive(Debug)]
pub(super) enum Refusal {
    ShutDown,
    BackedOff(BackedOff),
    Throttled,
}

/// A request that was refused, with the way to answer it.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) why: Refusal,
    pub(super) notify: Notify,
}

/// A request that waits for a pull now.
#[derive(Debug)]
pub(super) struct JoinedPull {
    pub(super) id: WaiterId,
    pub(super) stage: PullStage,
    /// Pulls to start.
    pub(super) ready: Vec<u64>,
}

/// A waiter that left its pull.
#[derive(Debug)]
pub(super) struct RemovedWaiter {
    pub(super) waiter: Waiter,
    /// Set if it was the last waiter: the caller cancels the pull.
    pub(super) cancel: Option<CancelToken>,
}

/// A pull that has ended.
#[derive(Debug)]
pub(super) struct EndedPull {
    pub(super) pull: SharedPull,
    /// Pulls to start.
    pub(super) ready: Vec<u64>,
}

impl InFlight {
    pub(super) fn new(schedule: Schedule, throttle: Option<TokenBucket>, back_off: BackOff) -> Self {
        InFlight {
            is_open: true,
            back_off,
            metrics: ManagerMetrics::default(),
            schedule,
            throttle,
            next_token_at: None,
            held_back_until: None,
            pulls: HashMap::new(),
            joinable: HashMap::new(),
            undecided: BTreeMap::new(),
            waiters: 0,
            pulls_ended: 0,
            last_number: 0,
        }
    }

    pub(super) fn snapshot(&mut self, now: Instant) -> ManagerMetrics {
        ManagerMetrics {
            queued: self.schedule.waiting(),
            running: self.schedule.running(),
            waiting: self.waiters,
            back_off_keys: self.back_off.len(now),
            registries: self.schedule.registries(),
            ..self.metrics.clone()
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pulls.is_empty()
    }

    pub(super) fn get_mut(&mut self, pull: u64) -> Option<&mut SharedPull> {
        self.pulls.get_mut(&pull)
    }

    /// Returns how many pulls have ended.
    pub(super) fn pulls_ended(&self) -> u64 {
        self.pulls_ended
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    // ---- arrival ----

    /// Gives a request its place in the order.
    pub(super) fn arrive(&mut self, asked_at: Instant) -> Arrival {
        Arrival { asked_at, number: self.next_number() }
    }

    /// Gives a submitted request its place in the order. Until it [is decided](Self::decided), the pulls of
    /// later requests wait for it.
    pub(super) fn arrive_submitted(&mut self, asked_at: Instant, priority: i8) -> (Arrival, Rank) {
        let arrival = self.arrive(asked_at);
        let rank = self.schedule.rank(asked_at, priority, arrival.number);
        self.undecided.insert(rank, Instant::now() + ORDER_WAIT);
        (arrival, rank)
    }

    /// Ends the wait of later pulls for a submitted request. Returns the pulls to start.
    pub(super) fn decided(&mut self, rank: Rank, now: Instant) -> Vec<u64> {
        match self.undecided.remove(&rank) {
            Some(_) => self.start_ready(now),
            None => Vec::new(),
        }
    }

    // ---- joining and leaving ----

    /// Makes the request wait for the pull with its key, or for a new one.
    pub(super) fn join(
        &mut self,
        request: &Arc<ParsedRequest>,
        cx: &PullContext,
        notify: Notify,
        now: Instant,
    ) -> Result<JoinedPull, Box<Refused>> {
        if let Err(why) = self.admit(request, now) {
            return Err(Box::new(Refused { why, notify }));
        }
        let key = request.pull_key();
        let (pull, is_first) = match self.joinable.get(&key) {
            Some(pull) => (*pull, false),
            None => match self.take_token_early(request, now) {
                Err(why) => return Err(Box::new(Refused { why, notify })),
                Ok(needs_token) => (self.add_pull(key, request, needs_token), true),
            },
        };
        let id = WaiterId { pull, waiter: self.next_number() };
        self.add_waiter(id, request, cx, notify, is_first);
        self.raise(pull, request);
        let own_rank = self.rank_of(request, request.arrival.number);
        self.undecided.remove(&own_rank);
        let ready = self.start_ready(now);
        let mut stage = PullStage::Started;
        if let Some(pull) = self.pulls.get_mut(&pull) {
            stage = pull.stage;
            pull.has_waited |= stage == PullStage::Queued;
        }
        Ok(JoinedPull { id, stage, ready })
    }

    fn admit(&mut self, request: &ParsedRequest, now: Instant) -> Result<(), Refusal> {
        if !self.is_open {
            return Err(Refusal::ShutDown);
        }
        match self.back_off.get(&request.back_off_key, &request.credentials, now) {
            Some(backed_off) => {
                self.metrics.back_offs += 1;
                Err(Refusal::BackedOff(backed_off))
            }
            None => Ok(()),
        }
    }

    /// Takes the token of a request that does not wait for one. Returns whether the pull is to take one when
    /// it starts.
    fn take_token_early(&mut self, request: &ParsedRequest, now: Instant) -> Result<bool, Refusal> {
        let Some(bucket) = &mut self.throttle else { return Ok(false) };
        if request.throttle == ThrottleMode::Wait {
            return Ok(true);
        }
        bucket.take(now).map(|()| false).map_err(|_| {
            self.metrics.throttled += 1;
            Refusal::Throttled
        })
    }

    /// Adds a pull, which has the number of the request that it is begun for.
    fn add_pull(&mut self, key: PullKey, request: &ParsedRequest, needs_token: bool) -> u64 {
        let number = request.arrival.number;
        let (key, registry) = (Arc::new(key), Arc::<str>::from(request.reference.registry()));
        let rank = self.rank_of(request, number);
        self.schedule.enqueue(&registry, rank);
        self.joinable.insert(Arc::clone(&key), number);
        let pull = SharedPull {
            key,
            registry,
            rank,
            stage: PullStage::Queued,
            needs_token,
            has_waited: request.pulls_ended_before != self.pulls_ended,
            asked_at: request.arrival.asked_at,
            request: PullRequest {
                id: number,
                image: request.image.clone(),
                pull_secrets: request.request.pull_secrets.clone(),
                pod_sandbox_config: request.request.pod_sandbox_config.clone(),
                ..PullRequest::default()
            },
            reference: request.reference.clone(),
            record: None,
            cancel: CancelToken::new(),
            progress: Arc::new(ProgressFanout::default()),
            waiters: BTreeMap::new(),
        };
        self.pulls.insert(number, pull);
        number
    }

    fn add_waiter(
        &mut self,
        id: WaiterId,
        request: &Arc<ParsedRequest>,
        cx: &PullContext,
        notify: Notify,
        is_first: bool,
    ) {
        let Some(pull) = self.pulls.get_mut(&id.pull) else { return };
        self.metrics.joined += u64::from(!is_first);
        self.waiters += 1;
        pull.progress.add(id.waiter, cx);
        let waiter = Waiter { request: Arc::clone(request), cx: cx.clone(), notify, is_first, ends: None };
        pull.waiters.insert(id.waiter, waiter);
    }

    fn rank_of(&self, request: &ParsedRequest, number: u64) -> Rank {
        self.schedule.rank(request.arrival.asked_at, request.request.priority, number)
    }

    /// Raises the pull to the place of its most urgent request.
    fn raise(&mut self, number: u64, request: &ParsedRequest) {
        let rank = self.rank_of(request, number);
        let Some(pull) = self.pulls.get_mut(&number) else { return };
        if pull.stage == PullStage::Queued && rank < pull.rank {
            self.schedule.remove(&pull.registry, pull.rank);
            self.schedule.enqueue(&pull.registry, rank);
            pull.rank = rank;
        }
    }

    /// Attaches the hook that removes the waiter. Returns it if the waiter is gone, to be dropped without the lock.
    pub(super) fn attach(&mut self, id: WaiterId, ends: Ends) -> Option<Ends> {
        match self.pulls.get_mut(&id.pull).and_then(|pull| pull.waiters.get_mut(&id.waiter)) {
            Some(waiter) => waiter.ends.replace(ends),
            None => Some(ends),
        }
    }

    /// Removes a waiter, if it still waits. The pull goes with its last waiter.
    pub(super) fn remove_waiter(&mut self, id: WaiterId) -> Option<RemovedWaiter> {
        let pull = self.pulls.get_mut(&id.pull)?;
        let waiter = pull.waiters.remove(&id.waiter)?;
        pull.progress.remove(id.waiter);
        let is_last = pull.waiters.is_empty();
        let cancel = is_last.then(|| pull.cancel.clone());
        let is_queued = pull.stage == PullStage::Queued;
        self.waiters -= 1;
        if is_last {
            self.close_to_others(id.pull);
        }
        if is_last && is_queued {
            self.remove_queued(id.pull);
        }
        Some(RemovedWaiter { waiter, cancel })
    }

    /// Takes no more waiters for the pull.
    fn close_to_others(&mut self, number: u64) {
        if let Some(pull) = self.pulls.get(&number)
            && self.joinable.get(&pull.key) == Some(&number)
        {
            self.joinable.remove(&pull.key);
        }
    }

    fn remove_queued(&mut self, number: u64) -> Option<SharedPull> {
        self.close_to_others(number);
        let pull = self.pulls.remove(&number)?;
        self.schedule.remove(&pull.registry, pull.rank);
        Some(pull)
    }

    // ---- starting and ending ----

    /// Starts as many pulls as the limits, the throttle and the order allow; returns their numbers.
    pub(super) fn start_ready(&mut self, now: Instant) -> Vec<u64> {
        let mut ready = Vec::new();
        (self.next_token_at, self.held_back_until) = (None, None);
        while self.is_open
            && let Some((registry, rank)) = self.schedule.first()
        {
            if self.is_held_back(rank) {
                break;
            }
            let pull = self.pulls.get_mut(&rank.pull);
            let needs_token = pull.as_ref().is_some_and(|pull| pull.needs_token);
            if let Some(bucket) = self.throttle.as_mut().filter(|_| needs_token)
                && let Err(wait) = bucket.take(now)
            {
                self.next_token_at = now.checked_add(wait);
                break;
            }
            self.schedule.start(&registry, rank);
            if let Some(pull) = pull {
                pull.stage = PullStage::Started;
                pull.needs_token = false;
            }
            ready.push(rank.pull);
        }
        ready
    }

    /// Returns whether a pull waits for an earlier request that is not decided yet.
    fn is_held_back(&mut self, rank: Rank) -> bool {
        while let Some((earlier, until)) = self.undecided.first_key_value()
            && *earlier < rank
        {
            if *until > Instant::now() {
                self.held_back_until = Some(*until);
                return true;
            }
            self.undecided.pop_first();
        }
        false
    }

    /// Queues a pull again that could not be given a thread, to be started when another one ends. Returns
    /// `false` if there is no other.
    pub(super) fn put_back(&mut self, number: u64) -> bool {
        let Some(pull) = self.pulls.get_mut(&number).filter(|_| self.schedule.running() > 1) else {
            return false;
        };
        pull.stage = PullStage::Queued;
        pull.has_waited = true;
        self.schedule.finish(&pull.registry);
        self.schedule.enqueue(&pull.registry, pull.rank);
        true
    }

    /// Returns when to look for pulls to start although nothing else happens: by the manager's clock, and by
    /// the system's.
    pub(super) fn next_starts(&self) -> (Option<Instant>, Option<Instant>) {
        (self.next_token_at, self.held_back_until)
    }

    /// Records that the image service is called for the pull. Returns the requests to tell.
    pub(super) fn begin_pull(&mut self, number: u64, now: Instant) -> Vec<Arc<ParsedRequest>> {
        let Some(pull) = self.pulls.get_mut(&number) else { return Vec::new() };
        pull.stage = PullStage::Pulling(now);
        pull.waiters.values().map(|waiter| Arc::clone(&waiter.request)).collect()
    }

    pub(super) fn take_record(&mut self, number: u64) -> Option<PullRecord> {
        self.pulls.get_mut(&number)?.record.take()
    }

    /// Removes a pull that has ended, and counts its outcome for each of its requests.
    pub(super) fn end_pull(
        &mut self,
        number: u64,
        outcome: &mut PullOutcome,
        now: Instant,
    ) -> Option<EndedPull> {
        self.close_to_others(number);
        let pull = self.pulls.remove(&number)?;
        outcome.began_at = pull.began_at();
        self.pulls_ended += 1;
        match pull.stage {
            PullStage::Queued => drop(self.schedule.remove(&pull.registry, pull.rank)),
            PullStage::Started | PullStage::Pulling(_) => self.schedule.finish(&pull.registry),
        }
        self.waiters -= pull.waiters.len();
        for waiter in pull.waiters.values() {
            self.count_for(&waiter.request, number, outcome, now);
        }
        self.count(&pull, outcome);
        Some(EndedPull { ready: self.start_ready(now), pull })
    }

    /// Success ends the back-off, and failure lengthens it. A cancel does neither.
    fn count_for(&mut self, request: &ParsedRequest, pull: u64, outcome: &PullOutcome, now: Instant) {
        match &outcome.outcome {
            Ok(_) => drop(self.back_off.forget(&request.back_off_key)),
            Err(error) if matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::ShutDown) => {}
            Err(error) => {
                let credentials = request.credentials.clone();
                self.back_off.failed(
                    &request.back_off_key,
                    Failure { cause: error.clone(), credentials, pull },
                    now,
                );
            }
        }
    }

    fn count(&mut self, pull: &SharedPull, outcome: &PullOutcome) {
        match &outcome.outcome {
            Ok(image) => {
                let wait = outcome
                    .began_at
                    .map_or(Duration::ZERO, |began_at| began_at.saturating_duration_since(pull.asked_at));
                self.metrics.bytes_fetched += image.bytes_fetched;
                self.metrics.bytes_reused += image.bytes_reused;
                self.metrics.count_pull(outcome.size, wait, outcome.pull_duration);
            }
            // A pull that was cancelled before it began is not counted.
            Err(error) if error.kind() == ErrorKind::Cancelled && outcome.began_at.is_none() => {}
            Err(error) => self.metrics.count_failure(error.kind()),
        }
    }

    // ---- the end ----

    /// Takes no more requests, and removes the pulls that have not been started.
    pub(super) fn close(&mut self) -> Vec<SharedPull> {
        self.is_open = false;
        let queued = self.pulls.iter().filter(|(_, pull)| pull.stage == PullStage::Queued);
        let queued: Vec<u64> = queued.map(|(number, _)| *number).collect();
        queued.into_iter().filter_map(|number| self.take_out(number)).collect()
    }

    /// Removes the pulls that are left.
    pub(super) fn take_all(&mut self) -> Vec<SharedPull> {
        let all: Vec<u64> = self.pulls.keys().copied().collect();
        all.into_iter().filter_map(|number| self.take_out(number)).collect()
    }

    fn take_out(&mut self, number: u64) -> Option<SharedPull> {
        let pull = self.remove_queued(number)?;
        if pull.stage != PullStage::Queued {
            self.schedule.finish(&pull.registry);
        }
        self.waiters -= pull.waiters.len();
        Some(pull)
    }

    pub(super) fn cancel_tokens(&self) -> Vec<CancelToken> {
        self.pulls.values().map(|pull| pull.cancel.clone()).collect()
    }
}
