//! What all of a manager's threads share, and how they are told what there is to do.

use std::any::Any;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, after, bounded, unbounded};
use parking_lot::{Condvar, Mutex};

use super::events::{Event, EventReason, EventSink};
use super::flight::{Ask, News, Seat, Ticket, Waker};
use super::flights::{Flights, Left};
use super::records::Records;
use super::reply::Reply;
use super::request::EnsureRequest;
use super::verification::Verification;
use super::{Throttle, request::EnsureResult};
use crate::clock::Clock;
use crate::context::PullContext;
use crate::error::{Error, ErrorKind, Phase};
use crate::puller::{ImagePuller, PullResult};
use crate::service::ImageService;

pub(super) struct Core {
    pub(super) service: Arc<dyn ImageService>,
    pub(super) puller: Arc<dyn ImagePuller>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) sink: Option<Arc<dyn EventSink>>,
    pub(super) throttle: Throttle,
    pub(super) verification: Verification,
    pub(super) records: Option<Records>,
    pub(super) flights: Mutex<Flights>,
    pub(super) flight_ended: Condvar,
    pub(super) channels: Channels,
}

/// How the manager's threads are told what there is to do.
pub(super) struct Channels {
    pub(super) jobs: (Sender<Job>, Receiver<Job>),
    pub(super) results: (Sender<PullResult>, Receiver<PullResult>),
    /// Wakes the timer when there is another time to wake at.
    pub(super) times: (Sender<()>, Receiver<()>),
    /// Disconnected at the end.
    pub(super) closing: Receiver<Infallible>,
    open: Mutex<Option<Sender<Infallible>>>,
}

/// Work for the manager's threads.
pub(super) enum Job {
    /// A request that was submitted.
    Ask(Box<Submitted>),
    /// There is news for an asker that no thread waits for.
    Settle(Box<Settling>),
    /// A pull's turn has come.
    Begin(u64),
}

pub(super) struct Submitted {
    pub(super) cx: PullContext,
    pub(super) request: EnsureRequest,
    pub(super) throttle: Throttle,
    pub(super) reply: Reply,
}

pub(super) struct Settling {
    pub(super) cx: PullContext,
    pub(super) ask: Arc<Ask>,
    pub(super) news: News,
    pub(super) reply: Reply,
}

impl Channels {
    pub(super) fn new() -> Self {
        let (open, closing) = bounded(0);
        Channels {
            jobs: unbounded(),
            results: unbounded(),
            times: bounded(1),
            closing,
            open: Mutex::new(Some(open)),
        }
    }
}

impl Core {
    /// The threads end when they have done what there is to do.
    pub(super) fn close(&self) {
        let open = self.channels.open.lock().take();
        drop(open);
    }

    // ---- work ----

    pub(super) fn submit(
        &self,
        cx: PullContext,
        request: EnsureRequest,
        throttle: Throttle,
        results: Sender<EnsureResult>,
    ) {
        let reply = Reply::new(&request, results);
        {
            // Under the lock: what is pushed while the manager is open is worked off before its end.
            let flights = self.flights.lock();
            if flights.is_open {
                return self.push(Job::Ask(Box::new(Submitted { cx, request, throttle, reply })));
            }
        }
        reply.offer(Err(shut_down().with_image(request.image.image)));
    }

    pub(super) fn push(&self, job: Job) {
        // Neither full nor disconnected, for it has no limit and we hold both its ends.
        let _ = self.channels.jobs.0.send(job);
    }

    /// Has the pulls started whose turn has come, and the timer look whether it has to wake earlier.
    pub(super) fn push_ready(&self, ready: Vec<u64>) {
        for flight in ready {
            self.push(Job::Begin(flight));
        }
        let has_times = self.flights.lock().has_times();
        if has_times {
            // If it is full, the timer is about to look anyway.
            let _ = self.channels.times.0.try_send(());
        }
    }

    pub(super) fn wake(&self, seat: Seat, news: News) {
        let Seat { ask, cx, waker, .. } = seat;
        match waker {
            // It holds one message, and there is only one.
            Waker::Thread(thread) => drop(thread.try_send(news)),
            Waker::Reply(reply) => self.push(Job::Settle(Box::new(Settling { cx, ask, news, reply }))),
        }
    }

    /// The asker gives up; nothing if there was news for it before.
    pub(super) fn leave(&self, ticket: Ticket, why: Error) {
        let left = self.flights.lock().leave(ticket);
        if let Some(left) = left {
            self.dismiss(left, News::Left(why));
        }
    }

    /// Tells an asker that has left why; with the last one, the pull is cancelled.
    pub(super) fn dismiss(&self, left: Left, news: News) {
        self.wake(left.seat, news);
        if let Some(pull) = left.cancel {
            pull.cancel();
        }
    }

    // ---- what calls out ----

    /// What the caller's clock says; the machine's, should that one panic.
    pub(super) fn now(&self) -> Instant {
        catch_unwind(AssertUnwindSafe(|| self.clock.now())).unwrap_or_else(|_| Instant::now())
    }

    /// Rings when the clock has come to `due`.
    pub(super) fn alarm(&self, due: Instant) -> Receiver<Instant> {
        let delay = due.saturating_duration_since(self.now());
        catch_unwind(AssertUnwindSafe(|| self.clock.after(delay))).unwrap_or_else(|_| after(delay))
    }

    pub(super) fn tell(&self, ask: &Ask, reason: EventReason, message: String) {
        self.tell_of(&ask.request, reason, message);
    }

    pub(super) fn tell_of(&self, request: &EnsureRequest, reason: EventReason, message: String) {
        let Some(sink) = &self.sink else { return };
        let (owner, image) = (request.owner.clone(), request.image.image.clone());
        let event = Event { owner, image, reason, message };
        if catch_unwind(AssertUnwindSafe(|| sink.event(&event))).is_err() {
            log::error!("the sink of events panicked at: {}", event.message);
        }
    }
}

pub(super) fn shut_down() -> Error {
    Error::new(ErrorKind::ShutDown, "the image manager was shut down").with_phase(Phase::Queued)
}

pub(super) fn panicked(panic: &(dyn Any + Send), who: &str) -> Error {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    Error::new(ErrorKind::Panicked, format!("{who} panicked: {text}"))
}
