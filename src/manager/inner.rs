//! The state that all threads of a manager share.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, after};
use parking_lot::{Condvar, Mutex};

use super::events::{Event, EventReason, EventSink};
use super::in_flight::InFlight;
use super::jobs::Workers;
use super::records::Records;
use super::request::{EnsureRequest, EnsureResult};
use super::shared_pull::{Ends, ParsedRequest};
use super::throttle::ThrottleMode;
use super::verification::VerificationRule;
use crate::clock::Clock;
use crate::context::PullContext;
use crate::error::{Error, ErrorKind, Phase};
use crate::puller::ImagePuller;
use crate::service::ImageService;
use crate::sync::{ThreadGroup, Timer, panic_text};

pub(super) struct ManagerInner {
    pub(super) service: Arc<dyn ImageService>,
    /// The caller's puller; without one, the manager pulls on threads of its own.
    pub(super) puller: Option<Arc<dyn ImagePuller>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) sink: Option<Arc<dyn EventSink>>,
    pub(super) throttle: ThrottleMode,
    pub(super) verification: VerificationRule,
    pub(super) records: Option<Records>,
    pub(super) in_flight: Mutex<InFlight>,
    /// Notified when a pull has ended.
    pub(super) pull_ended: Condvar,
    pub(super) threads: ThreadGroup,
    /// Ends waits at their deadlines, and delivers answers whose channels are full.
    pub(super) timer: Timer<EnsureResult>,
    pub(super) workers: Workers,
}

impl ManagerInner {
    /// Returns the time of the manager's clock; of the system's, if that panics.
    pub(super) fn now(&self) -> Instant {
        catch_unwind(AssertUnwindSafe(|| self.clock.now())).unwrap_or_else(|_| Instant::now())
    }

    /// Returns a channel that carries a message when the manager's clock has come to `due`.
    pub(super) fn alarm(&self, due: Instant) -> Receiver<Instant> {
        let delay = due.saturating_duration_since(self.now());
        catch_unwind(AssertUnwindSafe(|| self.clock.after(delay))).unwrap_or_else(|_| after(delay))
    }

    /// Has `leave` called on a cancel and at the deadline of the context, until the result is dropped.
    pub(super) fn at_end_of(
        self: &Arc<Self>,
        cx: &PullContext,
        leave: impl Fn(&Arc<Self>, Error) + Clone + Send + 'static,
    ) -> Ends {
        let leave = |kind, text: &'static str| {
            let (inner, leave) = (Arc::downgrade(self), leave.clone());
            move || {
                if let Some(inner) = inner.upgrade() {
                    leave(&inner, Error::new(kind, text));
                }
            }
        };
        let cancelled = || leave(ErrorKind::Cancelled, "the caller cancelled the request");
        let expired = || leave(ErrorKind::Timeout, "the request's deadline passed");
        let hook = cx.cancel_token().map(|token| token.on_cancel(cancelled()));
        let alarm = cx.deadline().map(|deadline| self.timer.at(deadline, expired()));
        (hook, alarm)
    }

    pub(super) fn emit(&self, request: &ParsedRequest, reason: EventReason, message: String) {
        self.emit_for(&request.request, reason, message);
    }

    pub(super) fn emit_for(&self, request: &EnsureRequest, reason: EventReason, message: String) {
        let Some(sink) = &self.sink else { return };
        let (owner, image) = (request.owner.clone(), request.image.image.clone());
        let event = Event { owner, image, reason, message };
        if catch_unwind(AssertUnwindSafe(|| sink.event(&event))).is_err() {
            log::error!("the event sink panicked at: {}", event.message);
        }
    }
}

pub(super) fn shut_down() -> Error {
    Error::new(ErrorKind::ShutDown, "the image manager was shut down").with_phase(Phase::Queued)
}

/// Runs `work`. A panic in it becomes an error that names `what`.
pub(super) fn catch_panic<T>(what: &str, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panicked(&*panic, what)))
}

fn panicked(panic: &(dyn Any + Send), what: &str) -> Error {
    let error = Error::new(ErrorKind::Panicked, format!("{what} panicked: {}", panic_text(panic)));
    log::error!("{error}");
    error
}
