//! What the manager's threads do: begin and land pulls, keep time, and end it all.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, at, never, select};

use super::core::{Core, Job, panicked, shut_down};
use super::crew::LISTENING_TIME;
use super::events::{self, EventReason};
use super::flight::{Audience, Flight, Landing, News, Ticket};
use super::records::Begun;
use super::secrets::SecretMark;
use crate::context::PullContext;
use crate::error::{Error, ErrorKind, Phase};
use crate::progress::{Progress, ProgressEvent};
use crate::puller::PullResult;

// ---- the workers ----

impl Core {
    /// The life of a `manager-N` thread.
    pub(super) fn work(self: &Arc<Self>) {
        loop {
            select! {
                recv(self.channels.jobs.1) -> job => if let Ok(job) = job {
                    self.run(job);
                },
                recv(self.channels.results.1) -> result => if let Ok(result) = result {
                    self.run_landing(result);
                },
                recv(self.channels.closing) -> _ => return self.drain(),
            }
        }
    }

    /// Does what there still is to do.
    pub(super) fn drain(self: &Arc<Self>) {
        while let Ok(job) = self.channels.jobs.1.try_recv() {
            self.run(job);
        }
    }

    fn run(self: &Arc<Self>, job: Job) {
        match job {
            Job::Ask(submitted) => self.guard(None, || self.ensure_submitted(*submitted)),
            Job::Settle(settling) => self.guard(None, || self.settle_submitted(*settling)),
            Job::Begin(flight) => self.guard(Some(flight), || self.begin(flight)),
        }
    }

    fn run_landing(&self, result: PullResult) {
        let PullResult { id, outcome, image_size, pull_duration, .. } = result;
        let landing = Landing { outcome, size: image_size, pull_duration, began_at: None };
        self.guard(Some(id), || self.land(id, landing));
    }

    /// A panic, which could only be our own, leaves nobody without an answer: a request's says so when it
    /// is dropped, and a flight lands.
    fn guard(&self, flight: Option<u64>, work: impl FnOnce()) {
        let Err(panic) = catch_unwind(AssertUnwindSafe(work)) else { return };
        let error = panicked(&*panic, "the image manager");
        log::error!("{error}");
        if let Some(flight) = flight {
            self.land(flight, never_begun(error));
        }
    }

    // ---- one pull ----

    /// Hands a pull whose turn has come to the puller, if somebody still needs it.
    fn begin(self: &Arc<Self>, number: u64) {
        self.look_again(number);
        let pull = self
            .flights
            .lock()
            .get_mut(number)
            .map(|flight| (flight.cancel.clone(), flight.request.clone(), Arc::clone(&flight.audience)));
        let Some((cancel, request, audience)) = pull else { return };
        if cancel.is_cancelled() {
            return self.land(number, never_begun(Error::new(ErrorKind::Cancelled, "nobody waits any more")));
        }
        if let Err(error) = self.record_begin(number, &request.image.image) {
            return self.land(number, never_begun(error));
        }
        let watch = Watch { core: Arc::downgrade(self), number, audience };
        let cx = PullContext::new().with_cancel(&cancel).with_progress(Arc::new(watch));
        let results = self.channels.results.0.clone();
        let handed = catch_unwind(AssertUnwindSafe(|| self.puller.pull_image(cx, request, results)));
        if let Err(panic) = handed {
            self.land(number, never_begun(panicked(&*panic, "the puller")));
        }
    }

    /// A pull that had to wait may be needed no more: the image may have come by another one, with other
    /// credentials. Askers that can do without leave.
    fn look_again(&self, number: u64) {
        let askers = {
            let mut flights = self.flights.lock();
            let waited = flights.get_mut(number).filter(|flight| flight.has_waited);
            waited.map(|flight| {
                let askers = flight.seats.iter().map(|(seat, asker)| (*seat, Arc::clone(&asker.ask)));
                (PullContext::new().with_cancel(&flight.cancel), askers.collect::<Vec<_>>())
            })
        };
        let Some((cx, askers)) = askers else { return };
        let Some((_, first)) = askers.iter().find(|(_, ask)| ask.request.policy.looks_first()) else {
            return;
        };
        // One that cannot be answered now is a matter of the pull.
        let Ok(Some(image_ref)) = self.image_ref(&cx, first) else { return };
        for (seat, _) in askers.iter().filter(|(_, ask)| self.can_do_without(ask, &image_ref)) {
            let left = self.flights.lock().leave(Ticket { flight: number, seat: *seat });
            if let Some(left) = left {
                self.dismiss(left, News::Present(image_ref.clone()));
            }
        }
    }

    /// Without a record that it began, a pull could give an image that nobody knows was pulled.
    fn record_begin(&self, number: u64, image: &str) -> Result<(), Error> {
        let Some(records) = &self.records else { return Ok(()) };
        let begun = records.begin(image).map_err(|error| {
            Error::new(ErrorKind::Store, format!("records: the pull could not be recorded: {error}"))
                .with_phase(Phase::Queued)
                .with_source(error)
        })?;
        let mut flights = self.flights.lock();
        if let Some(flight) = flights.get_mut(number) {
            flight.begun = Some(begun);
        }
        Ok(())
    }

    /// The puller has begun.
    fn pulling(&self, number: u64) {
        let now = self.now();
        let told = self.flights.lock().begin_pull(number, now);
        for ask in told {
            self.tell(&ask, EventReason::Pulling, events::pulling(ask.typed()));
        }
    }

    /// A pull has ended: writes down what that means, and tells all who wait for it.
    pub(super) fn land(&self, number: u64, mut landing: Landing) {
        let begun = self.flights.lock().take_begun(number);
        if let Some(begun) = begun {
            self.record_end(number, begun, &landing);
        }
        let now = self.now();
        let landed = {
            let mut flights = self.flights.lock();
            landing.began_at = flights.get_mut(number).and_then(|flight| flight.began_at());
            flights.land(number, &landing, now)
        };
        let Some(landed) = landed else { return };
        self.flight_ended.notify_all();
        self.push_ready(landed.ready);
        self.announce(landed.flight, landing);
    }

    fn record_end(&self, number: u64, begun: Begun, landing: &Landing) {
        let Some(records) = &self.records else { return };
        let Ok(image) = &landing.outcome else { return records.failed(begun) };
        let pulled = self.flights.lock().get_mut(number).map(|flight| {
            let marks = flight.request.pull_secrets.iter().map(SecretMark::of).collect::<Vec<_>>();
            (flight.reference.clone(), marks)
        });
        let Some((reference, marks)) = pulled else { return };
        if let Err(error) = records.succeeded(begun, &image.image_ref, &reference, marks) {
            log::warn!("{reference}: who pulled it could not be recorded, and has to ask again: {error}");
        }
    }

    fn announce(&self, flight: Flight, landing: Landing) {
        let landing = Arc::new(landing);
        for seat in flight.seats.into_values() {
            let news = News::Landed { landing: Arc::clone(&landing), is_first: seat.is_first };
            self.wake(seat, news);
        }
    }
}

fn never_begun(error: Error) -> Landing {
    Landing { outcome: Err(error), size: None, pull_duration: Duration::ZERO, began_at: None }
}

/// Watches a pull for all who wait for it.
struct Watch {
    core: Weak<Core>,
    number: u64,
    audience: Arc<Audience>,
}

impl Progress for Watch {
    fn event(&self, event: &ProgressEvent<'_>) {
        if let (ProgressEvent::Started, Some(core)) = (event, self.core.upgrade()) {
            core.pulling(self.number);
        }
        self.audience.tell(event);
    }
}

// ---- time ----

impl Core {
    /// The life of the `manager-timer`: sleeps to the nearest time at which somebody's deadline passes, or the throttle has a token.
    pub(super) fn keep_time(self: &Arc<Self>) {
        let mut token_alarm: Option<(Instant, Receiver<Instant>)> = None;
        loop {
            let (deadline, next_token_at) = {
                let flights = self.flights.lock();
                (flights.nearest_deadline(), flights.next_token_at())
            };
            token_alarm = next_token_at.map(|due| match token_alarm.take() {
                Some(set) if set.0 == due => set,
                _ => (due, self.alarm(due)),
            });
            let token = token_alarm.as_ref().map_or_else(never, |(_, alarm)| alarm.clone());
            let expired = deadline.map_or_else(never, at);
            select! {
                recv(self.channels.times.1) -> _ => {}
                recv(token) -> _ => {
                    token_alarm = None;
                    let now = self.now();
                    let ready = self.flights.lock().start_ready(now);
                    self.push_ready(ready);
                }
                recv(expired) -> _ => self.dismiss_expired(),
                recv(self.channels.closing) -> _ => return,
            }
        }
    }

    fn dismiss_expired(&self) {
        let expired = self.flights.lock().take_expired(Instant::now());
        for left in expired {
            let error = Error::new(ErrorKind::Timeout, "the request's deadline passed");
            self.dismiss(left, News::Left(error));
        }
    }
}

// ---- the end ----

impl Core {
    /// Takes nothing new, answers what has not begun, gives what runs its grace, cancels it, and answers
    /// whoever is left.
    pub(super) fn end(self: &Arc<Self>, grace: Duration, owns_puller: bool) {
        let queued = self.flights.lock().close();
        self.dismiss_all(queued);
        if !self.wait_until_landed(Instant::now().checked_add(grace)) {
            let running = self.flights.lock().cancel_tokens();
            for pull in running {
                pull.cancel();
            }
            self.wait_until_landed(Instant::now().checked_add(LISTENING_TIME));
        }
        if owns_puller {
            self.puller.shutdown(Duration::ZERO);
        }
        let deaf = self.flights.lock().take_all();
        self.dismiss_all(deaf);
        self.close();
    }

    fn dismiss_all(&self, flights: Vec<Flight>) {
        for flight in flights {
            self.announce(flight, never_begun(shut_down()));
        }
    }

    fn wait_until_landed(&self, deadline: Option<Instant>) -> bool {
        let mut flights = self.flights.lock();
        while !flights.is_empty() {
            match deadline {
                Some(deadline) => {
                    if self.flight_ended.wait_until(&mut flights, deadline).timed_out() {
                        return flights.is_empty();
                    }
                }
                None => self.flight_ended.wait(&mut flights),
            }
        }
        true
    }
}
