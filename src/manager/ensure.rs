//! The way of one request, from top to bottom: request, decision, pull, answer. It follows
//! [kubelet's `EnsureImageExists`](https://github.com/kubernetes/kubernetes/blob/master/pkg/kubelet/images/image_manager.go).

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::backoff::{BackOffKey, BackedOff, is_permanent};
use super::credential_hash::{SecretMark, SecretsHash};
use super::events::{self, EventReason, GoDuration};
use super::in_flight::{Refusal, Refused, RemovedWaiter};
use super::inner::{ManagerInner, catch_panic, shut_down};
use super::jobs::Submitted;
use super::metrics::RequestLabels;
use super::presence::Presence;
use super::records::PullRecord;
use super::request::{EnsureRequest, EnsuredImage, ImageSource, PullPolicy, parse_reference};
use super::shared_pull::{
    Arrival, Notify, ParsedRequest, ProgressFanout, PullOutcome, PullStage, Waiter, WaiterId, WaiterOutcome,
    report,
};
use super::throttle::ThrottleMode;
use crate::context::PullContext;
use crate::error::{Error, ErrorKind, Phase};
use crate::progress::{Progress, ProgressEvent};
use crate::service::{ImageRef, PullRequest, PulledImage};

/// What a request needs.
enum Decision {
    Answer(Box<EnsuredImage>),
    Pull,
}

impl ManagerInner {
    /// Ensures the image on this thread, which waits for the pull.
    pub(super) fn ensure(
        self: &Arc<Self>,
        cx: &PullContext,
        request: &EnsureRequest,
    ) -> Result<EnsuredImage, Error> {
        let asked_at = self.now();
        let arrival = self.in_flight.lock().arrive(asked_at);
        let request = self.parse(cx, request, arrival, self.throttle)?;
        if let Decision::Answer(image) = self.decide(cx, &request)? {
            return Ok(*image);
        }
        let (sender, receiver) = bounded(1);
        let id = match self.join(cx, &request, Notify::Thread(sender)) {
            Ok(id) => id,
            Err(refused) => return self.refuse(cx, &request, refused.why),
        };
        let outcome = match cx.wait_for(&receiver) {
            Ok(Some(outcome)) => outcome,
            Ok(None) => WaiterOutcome::Left(Error::new(ErrorKind::Panicked, "the work on the pull panicked")),
            Err(error) => {
                self.leave(id, error.clone());
                WaiterOutcome::Left(error)
            }
        };
        self.answer(cx, &request, outcome)
    }

    /// Does the same for a submitted request, up to the pull. The thread that has the pull's outcome answers.
    pub(super) fn ensure_submitted(self: &Arc<Self>, submitted: Submitted) {
        let Submitted { cx, request, throttle, responder, arrival, .. } = submitted;
        let parsed = self.parse(&cx, &request, arrival, throttle);
        let request = match parsed.and_then(|parsed| Ok((self.decide(&cx, &parsed)?, parsed))) {
            Ok((Decision::Pull, request)) => request,
            Ok((Decision::Answer(image), _)) => return responder.respond(Ok(*image)),
            Err(error) => return responder.respond(Err(error)),
        };
        match self.join(&cx, &request, Notify::Responder(responder)) {
            Ok(id) => self.watch(&cx, id),
            Err(refused) => {
                let Refused { why, notify } = *refused;
                let outcome = self.refuse(&cx, &request, why);
                if let Notify::Responder(responder) = notify {
                    responder.respond(outcome);
                }
            }
        }
    }

    // ---- request ----

    fn parse(
        &self,
        cx: &PullContext,
        request: &EnsureRequest,
        arrival: Arrival,
        throttle: ThrottleMode,
    ) -> Result<Arc<ParsedRequest>, Error> {
        if request.owner.is_empty() {
            return Err(
                Error::new(ErrorKind::InvalidConfig, "owner is empty").with_image(&request.image.image)
            );
        }
        let reference = parse_reference(&request.image.image).inspect_err(|error| {
            self.count(request, None, None);
            let message = events::invalid_name(&request.image.image, error);
            self.emit_for(request, EventReason::InspectFailed, message);
        })?;
        cx.check().map_err(|error| error.with_image(&request.image.image).with_phase(Phase::Queued))?;
        let mut image = request.image.clone();
        if reference.is_tagged_by_default() {
            image.image.push_str(":latest");
        }
        Ok(Arc::new(ParsedRequest {
            pulls_ended_before: self.in_flight.lock().pulls_ended(),
            back_off_key: Arc::new(BackOffKey { owner: request.owner.clone(), image: image.image.clone() }),
            credentials: SecretsHash::of(&request.pull_secrets),
            request: request.clone(),
            image,
            reference,
            arrival,
            throttle,
        }))
    }

    // ---- decision ----

    /// Decides whether the image that is there is enough.
    fn decide(&self, cx: &PullContext, request: &ParsedRequest) -> Result<Decision, Error> {
        let policy = request.request.policy;
        let count = |is_present, needs_pull| self.count(&request.request, is_present, needs_pull);
        if !policy.looks_first() {
            count(None, Some(true));
            return Ok(Decision::Pull);
        }
        let presence = self.look(cx, request).map_err(|error| {
            count(None, None);
            let message = events::not_inspected(request.typed(), &error);
            self.emit(request, EventReason::InspectFailed, message);
            error.with_image(request.typed())
        })?;
        match (presence, policy) {
            (Presence::Usable(image_ref), _) => {
                count(Some(true), Some(false));
                let image = self.present(request, image_ref, ImageSource::Present);
                Ok(Decision::Answer(Box::new(image)))
            }
            (Presence::Absent, PullPolicy::Never) => {
                count(Some(false), None);
                Err(match self.image_refusal(cx, request) {
                    Ok(None) => self.never(request, events::absent_and_never(request.typed())),
                    Ok(Some(refusal)) | Err(refusal) => {
                        let message = events::refused_and_never(request.typed(), &refusal);
                        self.emit(request, EventReason::ErrImageNeverPull, message);
                        refusal.with_image(request.typed())
                    }
                })
            }
            (Presence::Unproven, PullPolicy::Never) => {
                count(Some(true), Some(true));
                Err(self.never(request, events::not_authorised_and_never(request.typed())))
            }
            (presence, _) => {
                count(Some(matches!(presence, Presence::Unproven)), Some(true));
                Ok(Decision::Pull)
            }
        }
    }

    // ---- joining a pull ----

    fn join(
        self: &Arc<Self>,
        cx: &PullContext,
        request: &Arc<ParsedRequest>,
        notify: Notify,
    ) -> Result<WaiterId, Box<Refused>> {
        let now = self.now();
        let joined = self.in_flight.lock().join(request, cx, notify, now)?;
        self.start(joined.ready);
        match joined.stage {
            PullStage::Queued => report(cx, &ProgressEvent::Queued),
            PullStage::Started => {}
            PullStage::Pulling(_) => {
                self.emit(request, EventReason::Pulling, events::pulling(request.typed()));
                report(cx, &ProgressEvent::Started);
            }
        }
        Ok(joined.id)
    }

    fn refuse(&self, cx: &PullContext, request: &ParsedRequest, why: Refusal) -> Result<EnsuredImage, Error> {
        match why {
            Refusal::ShutDown => Err(shut_down().with_image(request.typed())),
            Refusal::BackedOff(backed_off) => {
                self.emit(request, EventReason::BackOff, events::back_off(request.typed()));
                let fallback = self.fall_back(cx, request, &backed_off.cause);
                fallback.ok_or_else(|| backing_off(request, &backed_off))
            }
            Refusal::Throttled => {
                let error = Error::new(ErrorKind::RateLimited, "pull QPS exceeded");
                let error = error.with_image(request.typed());
                self.emit(request, EventReason::Failed, events::failed(request.typed(), &error));
                Err(error.with_phase(Phase::Queued))
            }
        }
    }

    /// Removes a submitted request from its pull on a cancel and at the deadline. Both are attached after the
    /// request waits, for a cancel may run its hook at once.
    fn watch(self: &Arc<Self>, cx: &PullContext, id: WaiterId) {
        let ends = self.at_end_of(cx, move |inner, why| inner.leave(id, why));
        // If the request waits no more, they are dropped here, and not under the lock.
        let unneeded = self.in_flight.lock().attach(id, ends);
        drop(unneeded);
    }

    fn leave(self: &Arc<Self>, id: WaiterId, why: Error) {
        let removed = self.in_flight.lock().remove_waiter(id);
        if let Some(removed) = removed {
            self.notify_removed(removed, WaiterOutcome::Left(why));
        }
    }

    fn notify_removed(self: &Arc<Self>, removed: RemovedWaiter, outcome: WaiterOutcome) {
        self.notify(removed.waiter, outcome);
        if let Some(pull) = removed.cancel {
            pull.cancel();
        }
    }

    // ---- pull ----

    /// Prepares a pull whose turn has come; returns context and request for the image service.
    pub(super) fn begin(self: &Arc<Self>, pull: u64) -> Result<(PullContext, PullRequest), Error> {
        self.look_again(pull);
        let parts = self
            .in_flight
            .lock()
            .get_mut(pull)
            .map(|shared| (shared.cancel.clone(), shared.request.clone(), Arc::clone(&shared.progress)));
        let (cancel, request, waiters) = parts.ok_or_else(no_waiters)?;
        if cancel.is_cancelled() {
            return Err(no_waiters());
        }
        self.record_begin(pull, &request.image.image)?;
        let progress = PullProgress { inner: Arc::downgrade(self), pull, waiters };
        Ok((PullContext::new().with_cancel(&cancel).with_progress(Arc::new(progress)), request))
    }

    /// Looks for the image again if the pull has waited: another pull, with other credentials, may have
    /// brought it. Requests that may use it wait no more.
    fn look_again(self: &Arc<Self>, pull: u64) {
        let waiting = {
            let mut in_flight = self.in_flight.lock();
            let waited = in_flight.get_mut(pull).filter(|shared| shared.has_waited);
            waited.map(|shared| {
                let waiters = shared.waiters.iter().map(|(id, waiter)| (*id, Arc::clone(&waiter.request)));
                (PullContext::new().with_cancel(&shared.cancel), waiters.collect::<Vec<_>>())
            })
        };
        let Some((cx, waiters)) = waiting else { return };
        let Some((_, first)) = waiters.iter().find(|(_, request)| request.request.policy.looks_first())
        else {
            return;
        };
        // An image that cannot be looked for is pulled.
        let Ok(Some(image_ref)) = self.image_ref(&cx, first) else { return };
        let may_use = |request: &ParsedRequest| {
            request.request.policy == PullPolicy::IfNotPresent
                && matches!(self.prove(request, image_ref.clone()), Presence::Usable(_))
        };
        for (waiter, _) in waiters.iter().filter(|(_, request)| may_use(request)) {
            let removed = self.in_flight.lock().remove_waiter(WaiterId { pull, waiter: *waiter });
            if let Some(removed) = removed {
                self.notify_removed(removed, WaiterOutcome::Present(image_ref.clone()));
            }
        }
    }

    /// Records that a pull begins. Without that record it could bring an image that nothing says was pulled.
    fn record_begin(&self, pull: u64, image: &str) -> Result<(), Error> {
        let Some(records) = &self.records else { return Ok(()) };
        let record = records.begin(image).map_err(|error| {
            Error::new(ErrorKind::Store, format!("records: the pull could not be recorded: {error}"))
                .with_phase(Phase::Queued)
                .with_source(error)
        })?;
        if let Some(shared) = self.in_flight.lock().get_mut(pull) {
            shared.record = Some(record);
        }
        Ok(())
    }

    /// Calls the image service as a puller does: pull, then size.
    pub(super) fn pull(&self, cx: &PullContext, request: &PullRequest) -> PullOutcome {
        const SERVICE: &str = "the image service";
        let begun_at = Instant::now();
        let pulled = catch_panic(SERVICE, || {
            cx.check().map_err(|error| error.with_phase(Phase::Queued))?;
            cx.report(&ProgressEvent::Started);
            self.service.pull_image(cx, request)
        });
        let size = pulled.as_ref().ok().filter(|pulled| !pulled.image_ref.is_empty()).and_then(|_| {
            let size = catch_panic(SERVICE, || self.service.image_size(cx, &request.image));
            size.inspect_err(|error| log::warn!("the size of a pulled image is not known: {error}")).ok()
        });
        PullOutcome {
            outcome: pulled.map_err(|error| error.with_image(&request.image.image)),
            size,
            pull_duration: begun_at.elapsed(),
            began_at: None,
        }
    }

    /// Ends a pull: records its outcome, and gives it to each request that waits. Returns the pulls to start.
    pub(super) fn finish(self: &Arc<Self>, pull: u64, mut outcome: PullOutcome) -> Vec<u64> {
        let record = self.in_flight.lock().take_record(pull);
        if let Some(record) = record {
            self.record_end(pull, record, &outcome);
        }
        let now = self.now();
        let ended = self.in_flight.lock().end_pull(pull, &mut outcome, now);
        let Some(ended) = ended else { return Vec::new() };
        self.pull_ended.notify_all();
        let outcome = Arc::new(outcome);
        for waiter in ended.pull.waiters.into_values() {
            let is_first = waiter.is_first;
            self.notify(waiter, WaiterOutcome::Pulled { pull: Arc::clone(&outcome), is_first });
        }
        ended.ready
    }

    fn record_end(&self, pull: u64, record: PullRecord, outcome: &PullOutcome) {
        let Some(records) = &self.records else { return };
        let Ok(image) = &outcome.outcome else { return records.failed(record) };
        let pulled = self.in_flight.lock().get_mut(pull).map(|shared| {
            let marks = shared.request.pull_secrets.iter().map(SecretMark::of).collect::<Vec<_>>();
            (shared.reference.clone(), marks)
        });
        let Some((reference, marks)) = pulled else { return };
        if let Err(error) = records.succeeded(record, &image.image_ref, &reference, marks) {
            log::warn!("{reference}: the pull could not be recorded, and is to be repeated for use: {error}");
        }
    }

    // ---- answer ----

    /// Gives a waiter its outcome: to its thread, or as the answer made on this one. Never blocks on a
    /// channel.
    pub(super) fn notify(&self, waiter: Waiter, outcome: WaiterOutcome) {
        let Waiter { request, cx, notify, ends, .. } = waiter;
        drop(ends);
        match notify {
            // It has room for one outcome, and there is only one.
            Notify::Thread(thread) => drop(thread.try_send(outcome)),
            Notify::Responder(responder) => {
                responder.respond(catch_panic("the image manager", || self.answer(&cx, &request, outcome)));
            }
        }
    }

    fn answer(
        &self,
        cx: &PullContext,
        request: &ParsedRequest,
        outcome: WaiterOutcome,
    ) -> Result<EnsuredImage, Error> {
        match outcome {
            WaiterOutcome::Present(image_ref) => Ok(self.present(request, image_ref, ImageSource::Present)),
            WaiterOutcome::Left(error) => Err(error.with_image(request.typed()).with_phase(Phase::Queued)),
            WaiterOutcome::Pulled { pull, is_first } => match &pull.outcome {
                Ok(image) => Ok(self.pulled(request, image, &pull)),
                Err(error) => self.failed(cx, request, error, is_first),
            },
        }
    }

    fn pulled(&self, request: &ParsedRequest, image: &PulledImage, pull: &PullOutcome) -> EnsuredImage {
        let asked_at = request.arrival.asked_at;
        let wait_duration = pull.began_at.unwrap_or(asked_at).saturating_duration_since(asked_at);
        let PullOutcome { size, pull_duration, .. } = *pull;
        let message = events::pulled(request.typed(), pull_duration, wait_duration, size);
        self.emit(request, EventReason::Pulled, message.clone());
        EnsuredImage {
            image_ref: image.image_ref.clone(),
            image: request.image.clone(),
            source: ImageSource::Pulled { image: image.clone(), size, wait_duration, pull_duration },
            message,
        }
    }

    /// Makes a pull's failure the answer, as the request's policy says. A request that joined looks for the
    /// image first, since another pull may have brought it.
    fn failed(
        &self,
        cx: &PullContext,
        request: &ParsedRequest,
        error: &Error,
        is_first: bool,
    ) -> Result<EnsuredImage, Error> {
        if !is_first
            && request.request.policy == PullPolicy::IfNotPresent
            && let Ok(Presence::Usable(image_ref)) = self.look(cx, request)
        {
            return Ok(self.present(request, image_ref, ImageSource::Present));
        }
        self.emit(request, EventReason::Failed, events::failed(request.typed(), error));
        let fallback = self.fall_back(cx, request, error);
        fallback.ok_or_else(|| error.clone().with_image(request.typed()))
    }

    /// Returns the image that is there, if the policy allows that when the registry is out of reach.
    fn fall_back(&self, cx: &PullContext, request: &ParsedRequest, cause: &Error) -> Option<EnsuredImage> {
        if request.request.policy != PullPolicy::PullIfPossible || !is_out_of_reach(cause) {
            return None;
        }
        match self.look(cx, request) {
            Ok(Presence::Usable(image_ref)) => {
                Some(self.present(request, image_ref, ImageSource::Fallback { cause: cause.clone() }))
            }
            Ok(Presence::Absent | Presence::Unproven) => None,
            Err(error) => {
                log::warn!("{}: whether the image is there is not known: {error}", request.typed());
                None
            }
        }
    }

    fn present(&self, request: &ParsedRequest, image_ref: ImageRef, source: ImageSource) -> EnsuredImage {
        let message = events::already_present(request.typed());
        self.in_flight.lock().metrics.count_present(&source);
        self.emit(request, EventReason::Pulled, message.clone());
        EnsuredImage { image_ref, image: request.image.clone(), source, message }
    }

    fn never(&self, request: &ParsedRequest, message: String) -> Error {
        self.emit(request, EventReason::ErrImageNeverPull, message.clone());
        Error::new(ErrorKind::NeverPull, message).with_image(request.typed())
    }

    fn count(&self, request: &EnsureRequest, is_present: Option<bool>, needs_pull: Option<bool>) {
        let labels = RequestLabels::new(request.policy, is_present, needs_pull);
        self.in_flight.lock().metrics.count_request(labels);
    }
}

/// Reports a pull's progress to all of its requests.
struct PullProgress {
    inner: Weak<ManagerInner>,
    pull: u64,
    waiters: Arc<ProgressFanout>,
}

impl Progress for PullProgress {
    fn event(&self, event: &ProgressEvent) {
        if let (ProgressEvent::Started, Some(inner)) = (event, self.inner.upgrade()) {
            let now = inner.now();
            let requests = inner.in_flight.lock().begin_pull(self.pull, now);
            for request in requests {
                inner.emit(&request, EventReason::Pulling, events::pulling(request.typed()));
            }
        }
        self.waiters.report(event);
    }
}

fn no_waiters() -> Error {
    Error::new(ErrorKind::Cancelled, "no request waits for the pull any more")
}

fn backing_off(request: &ParsedRequest, backed_off: &BackedOff) -> Error {
    // Rounded up: 0 µs left would be no back-off.
    let left = GoDuration(backed_off.left + Duration::from_micros(999));
    let advice = if is_permanent(&backed_off.cause) {
        "; trying again does not help until the image, the request or the credentials change"
    } else {
        ""
    };
    let image = request.typed();
    let message = format!("{}: {}; {left} left{advice}", events::back_off(image), backed_off.cause);
    Error::new(ErrorKind::BackOff, message).with_image(image).with_source(backed_off.cause.clone())
}

/// Returns whether the registry could not be asked, or could not answer: that says nothing about the image.
fn is_out_of_reach(error: &Error) -> bool {
    use ErrorKind::*;
    matches!(error.kind(), HostNotFound | ConnectionFailed | Timeout | Unavailable | RateLimited)
}
