//! All that changes: which pulls there are, who waits for them, and who must not ask. Plain state
//! behind one lock; nothing here calls out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Throttle;
use super::backoff::{BackOff, Failure, Held};
use super::flight::{Ask, Audience, Flight, FlightKey, Landing, Seat, Stage, Ticket, Waker};
use super::metrics::ManagerMetrics;
use super::records::Begun;
use super::schedule::Schedule;
use super::throttle::TokenBucket;
use crate::context::{CancelHook, CancelToken, PullContext};
use crate::error::ErrorKind;
use crate::service::PullRequest;

#[derive(Debug)]
pub(super) struct Flights {
    pub(super) is_open: bool,
    pub(super) back_off: BackOff,
    pub(super) metrics: ManagerMetrics,
    schedule: Schedule,
    /// `None` is no throttle.
    throttle: Option<TokenBucket>,
    /// When the throttle has a token for who waits.
    next_token_at: Option<Instant>,
    flights: HashMap<u64, Flight>,
    /// The flights that may be joined.
    joinable: HashMap<Arc<FlightKey>, u64>,
    /// Of askers that no thread waits for.
    deadlines: BTreeSet<(Instant, Ticket)>,
    seats: usize,
    landings: u64,
    next_number: u64,
}

/// Why an asker may not have a pull now.
#[derive(Debug)]
pub(super) enum Refusal {
    ShutDown,
    Held(Held),
    Throttled,
}

/// An asker that was refused, and what it came with.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) why: Refusal,
    pub(super) waker: Waker,
}

/// An asker has a seat.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) ticket: Ticket,
    /// How far the pull is.
    pub(super) stage: Stage,
    /// Flights whose turn has come.
    pub(super) ready: Vec<u64>,
}

/// An asker that left its seat.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) seat: Seat,
    /// It was the last one of a pull, which is to be cancelled.
    pub(super) cancel: Option<CancelToken>,
}

/// A flight that ended, and what follows.
#[derive(Debug)]
pub(super) struct Landed {
    pub(super) flight: Flight,
    pub(super) ready: Vec<u64>,
}

impl Flights {
    pub(super) fn new(schedule: Schedule, throttle: Option<TokenBucket>, back_off: BackOff) -> Self {
        Flights {
            is_open: true,
            back_off,
            metrics: ManagerMetrics::default(),
            schedule,
            throttle,
            next_token_at: None,
            flights: HashMap::new(),
            joinable: HashMap::new(),
            deadlines: BTreeSet::new(),
            seats: 0,
            landings: 0,
            next_number: 0,
        }
    }

    pub(super) fn snapshot(&mut self, now: Instant) -> ManagerMetrics {
        ManagerMetrics {
            queued: self.schedule.waiting(),
            running: self.schedule.running(),
            waiting: self.seats,
            back_off_keys: self.back_off.len(now),
            registries: self.schedule.registries(),
            ..self.metrics.clone()
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    pub(super) fn get_mut(&mut self, flight: u64) -> Option<&mut Flight> {
        self.flights.get_mut(&flight)
    }

    /// How many pulls have ended.
    pub(super) fn landings(&self) -> u64 {
        self.landings
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    // ---- joining and leaving ----

    /// Gives the asker a seat in the pull that there is, or in a new one.
    pub(super) fn join(
        &mut self,
        ask: &Arc<Ask>,
        cx: &PullContext,
        waker: Waker,
        now: Instant,
    ) -> Result<Joined, Box<Refused>> {
        if let Err(why) = self.admit(ask, now) {
            return Err(Box::new(Refused { why, waker }));
        }
        let key = ask.flight_key();
        let (flight, is_first) = match self.joinable.get(&key) {
            Some(flight) => (*flight, false),
            None => match self.take_token_early(ask, now) {
                Err(why) => return Err(Box::new(Refused { why, waker })),
                Ok(needs_token) => (self.open_flight(key, ask, needs_token), true),
            },
        };
        let ticket = Ticket { flight, seat: self.number() };
        self.seat(ticket, ask, cx, waker, is_first);
        self.raise(flight, ask);
        let ready = self.start_ready(now);
        let mut stage = Stage::Handed;
        if let Some(flight) = self.flights.get_mut(&flight) {
            stage = flight.stage;
            flight.has_waited |= stage == Stage::Queued;
        }
        Ok(Joined { ticket, stage, ready })
    }

    fn admit(&mut self, ask: &Ask, now: Instant) -> Result<(), Refusal> {
        if !self.is_open {
            return Err(Refusal::ShutDown);
        }
        match self.back_off.held(&ask.back_off_key, &ask.credentials, now) {
            Some(held) => {
                self.metrics.back_offs += 1;
                Err(Refusal::Held(held))
            }
            None => Ok(()),
        }
    }

    /// Who does not wait for a token takes it before there is a pull. Tells whether one is yet to be
    /// taken.
    fn take_token_early(&mut self, ask: &Ask, now: Instant) -> Result<bool, Refusal> {
        let Some(bucket) = &mut self.throttle else { return Ok(false) };
        if ask.throttle == Throttle::Wait {
            return Ok(true);
        }
        bucket.take(now).map(|()| false).map_err(|_| {
            self.metrics.throttled += 1;
            Refusal::Throttled
        })
    }

    fn open_flight(&mut self, key: FlightKey, ask: &Ask, needs_token: bool) -> u64 {
        let number = self.number();
        let (key, registry) = (Arc::new(key), Arc::<str>::from(ask.reference.registry()));
        let rank = self.schedule.rank(ask.asked_at, ask.request.priority, number);
        self.schedule.enqueue(&registry, rank);
        self.joinable.insert(Arc::clone(&key), number);
        let flight = Flight {
            key,
            registry,
            rank,
            stage: Stage::Queued,
            needs_token,
            has_waited: ask.landings_before != self.landings,
            asked_at: ask.asked_at,
            request: PullRequest {
                id: number,
                image: ask.image.clone(),
                pull_secrets: ask.request.pull_secrets.clone(),
                pod_sandbox_config: ask.request.pod_sandbox_config.clone(),
                ..PullRequest::default()
            },
            reference: ask.reference.clone(),
            begun: None,
            cancel: CancelToken::new(),
            audience: Arc::new(Audience::default()),
            seats: BTreeMap::new(),
        };
        self.flights.insert(number, flight);
        number
    }

    fn seat(&mut self, ticket: Ticket, ask: &Arc<Ask>, cx: &PullContext, waker: Waker, is_first: bool) {
        let Some(flight) = self.flights.get_mut(&ticket.flight) else { return };
        if let (Waker::Reply(_), Some(deadline)) = (&waker, cx.deadline()) {
            self.deadlines.insert((deadline, ticket));
        }
        self.metrics.joined += u64::from(!is_first);
        self.seats += 1;
        flight.audience.add(ticket.seat, cx);
        let seat = Seat { ask: Arc::clone(ask), cx: cx.clone(), waker, is_first, hook: None };
        flight.seats.insert(ticket.seat, seat);
    }

    /// A pull goes as soon as the most urgent of its askers would.
    fn raise(&mut self, number: u64, ask: &Ask) {
        let rank = self.schedule.rank(ask.asked_at, ask.request.priority, number);
        let Some(flight) = self.flights.get_mut(&number) else { return };
        if flight.stage == Stage::Queued && rank < flight.rank {
            self.schedule.remove(&flight.registry, flight.rank);
            self.schedule.enqueue(&flight.registry, rank);
            flight.rank = rank;
        }
    }

    /// Gives a seat its hook; hands the hook back if the seat is empty.
    pub(super) fn attach(&mut self, ticket: Ticket, hook: CancelHook) -> Result<(), CancelHook> {
        match self.flights.get_mut(&ticket.flight).and_then(|flight| flight.seats.get_mut(&ticket.seat)) {
            Some(seat) => {
                seat.hook = Some(hook);
                Ok(())
            }
            None => Err(hook),
        }
    }

    /// Takes an asker out, if it still has its seat. With the last one goes the pull.
    pub(super) fn leave(&mut self, ticket: Ticket) -> Option<Left> {
        let flight = self.flights.get_mut(&ticket.flight)?;
        let seat = flight.seats.remove(&ticket.seat)?;
        flight.audience.remove(ticket.seat);
        let is_last = flight.seats.is_empty();
        let cancel = is_last.then(|| flight.cancel.clone());
        let is_queued = flight.stage == Stage::Queued;
        self.note_left(ticket, &seat);
        if is_last {
            self.close_to_others(ticket.flight);
        }
        if is_last && is_queued {
            self.remove_queued(ticket.flight);
        }
        Some(Left { seat, cancel })
    }

    fn note_left(&mut self, ticket: Ticket, seat: &Seat) {
        self.seats -= 1;
        if let Some(deadline) = seat.cx.deadline() {
            self.deadlines.remove(&(deadline, ticket));
        }
    }

    /// Nobody joins it any more.
    fn close_to_others(&mut self, number: u64) {
        if let Some(flight) = self.flights.get(&number)
            && self.joinable.get(&flight.key) == Some(&number)
        {
            self.joinable.remove(&flight.key);
        }
    }

    fn remove_queued(&mut self, number: u64) -> Option<Flight> {
        self.close_to_others(number);
        let flight = self.flights.remove(&number)?;
        self.schedule.remove(&flight.registry, flight.rank);
        Some(flight)
    }

    // ---- starting and ending ----

    /// The flights whose turn has come: as many as the limits and the throttle allow.
    pub(super) fn start_ready(&mut self, now: Instant) -> Vec<u64> {
        let mut ready = Vec::new();
        self.next_token_at = None;
        while self.is_open
            && let Some((registry, rank)) = self.schedule.first()
        {
            let flight = self.flights.get_mut(&rank.pull);
            let needs_token = flight.as_ref().is_some_and(|flight| flight.needs_token);
            if let Some(bucket) = self.throttle.as_mut().filter(|_| needs_token)
                && let Err(wait) = bucket.take(now)
            {
                self.next_token_at = now.checked_add(wait);
                break;
            }
            self.schedule.start(&registry, rank);
            if let Some(flight) = flight {
                flight.stage = Stage::Handed;
            }
            ready.push(rank.pull);
        }
        ready
    }

    pub(super) fn next_token_at(&self) -> Option<Instant> {
        self.next_token_at
    }

    /// The puller has begun: who is to be told.
    pub(super) fn begin_pull(&mut self, number: u64, now: Instant) -> Vec<Arc<Ask>> {
        let Some(flight) = self.flights.get_mut(&number) else { return Vec::new() };
        flight.stage = Stage::Pulling(now);
        flight.seats.values().map(|seat| Arc::clone(&seat.ask)).collect()
    }

    pub(super) fn take_begun(&mut self, number: u64) -> Option<Begun> {
        self.flights.get_mut(&number)?.begun.take()
    }

    /// Takes out a flight that ended, and counts what that means to those in it.
    pub(super) fn land(&mut self, number: u64, landing: &Landing, now: Instant) -> Option<Landed> {
        self.close_to_others(number);
        let flight = self.flights.remove(&number)?;
        self.landings += 1;
        match flight.stage {
            Stage::Queued => drop(self.schedule.remove(&flight.registry, flight.rank)),
            Stage::Handed | Stage::Pulling(_) => self.schedule.finish(&flight.registry),
        }
        for (&seat, asker) in &flight.seats {
            self.note_left(Ticket { flight: number, seat }, asker);
            self.count_for(&asker.ask, number, landing, now);
        }
        self.count(&flight, landing);
        Some(Landed { ready: self.start_ready(now), flight })
    }

    /// Success clears the back-off, failure lengthens it; that the pull was given up is neither.
    fn count_for(&mut self, ask: &Ask, pull: u64, landing: &Landing, now: Instant) {
        match &landing.outcome {
            Ok(_) => drop(self.back_off.forget(&ask.back_off_key)),
            Err(error) if matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::ShutDown) => {}
            Err(error) => {
                let credentials = ask.credentials.clone();
                self.back_off.failed(
                    &ask.back_off_key,
                    Failure { cause: error.clone(), credentials, pull },
                    now,
                );
            }
        }
    }

    fn count(&mut self, flight: &Flight, landing: &Landing) {
        match &landing.outcome {
            Ok(image) => {
                let wait = landing
                    .began_at
                    .map_or(Duration::ZERO, |began_at| began_at.saturating_duration_since(flight.asked_at));
                self.metrics.bytes_fetched += image.bytes_fetched;
                self.metrics.bytes_reused += image.bytes_reused;
                self.metrics.count_pull(landing.size, wait, landing.pull_duration);
            }
            // One that was given up before it began was no pull.
            Err(error) if error.kind() == ErrorKind::Cancelled && landing.began_at.is_none() => {}
            Err(error) => self.metrics.count_failure(error.kind()),
        }
    }

    // ---- time and the end ----

    /// Whether there is anything that the timer is needed for.
    pub(super) fn has_times(&self) -> bool {
        self.next_token_at.is_some() || !self.deadlines.is_empty()
    }

    pub(super) fn nearest_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Askers whose deadline has passed.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<Left> {
        let mut expired = Vec::new();
        while let Some(&(deadline, ticket)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            expired.extend(self.leave(ticket));
        }
        expired
    }

    /// Takes nothing new; takes out the flights that have not been started.
    pub(super) fn close(&mut self) -> Vec<Flight> {
        self.is_open = false;
        let queued = self.flights.iter().filter(|(_, flight)| flight.stage == Stage::Queued);
        let queued: Vec<u64> = queued.map(|(number, _)| *number).collect();
        queued.into_iter().filter_map(|number| self.take_out(number)).collect()
    }

    /// Takes out those that are left, ended or not.
    pub(super) fn take_all(&mut self) -> Vec<Flight> {
        let all: Vec<u64> = self.flights.keys().copied().collect();
        all.into_iter().filter_map(|number| self.take_out(number)).collect()
    }

    fn take_out(&mut self, number: u64) -> Option<Flight> {
        let flight = self.remove_queued(number)?;
        if flight.stage != Stage::Queued {
            self.schedule.finish(&flight.registry);
        }
        for (&seat, asker) in &flight.seats {
            self.note_left(Ticket { flight: number, seat }, asker);
        }
        Some(flight)
    }

    pub(super) fn cancel_tokens(&self) -> Vec<CancelToken> {
        self.flights.values().map(|flight| flight.cancel.clone()).collect()
    }
}
