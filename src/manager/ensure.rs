//! The way of one request: read, look, ask for a pull, and make of its end an answer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;

use super::Throttle;
use super::backoff::{Held, Key, is_permanent};
use super::core::{Core, Settling, Submitted, panicked, shut_down};
use super::events::{self, EventReason, GoDuration};
use super::flight::{Ask, Landing, News, Stage, Ticket, Waker, report};
use super::flights::{Refusal, Refused};
use super::metrics::RequestLabels;
use super::request::{EnsureRequest, EnsuredImage, ImageSource, PullPolicy};
use super::secrets::{SecretMark, SecretsHash};
use crate::context::PullContext;
use crate::error::{Error, ErrorKind, Phase};
use crate::image::reference::Reference;
use crate::progress::ProgressEvent;
use crate::service::{ImageRef, PulledImage};

/// What a look at the store found.
#[derive(Debug)]
enum Found {
    Nothing,
    Usable(ImageRef),
    /// It is there, and nobody knows whether this asker could have pulled it.
    Unproven,
}

/// What a request needs.
enum Next {
    Answer(Box<EnsuredImage>),
    Pull,
}

impl Core {
    /// Has the image, and waits for it on this thread.
    pub(super) fn ensure(
        self: &Arc<Self>,
        cx: &PullContext,
        request: &EnsureRequest,
    ) -> Result<EnsuredImage, Error> {
        let ask = self.read(cx, request, self.throttle)?;
        if let Next::Answer(image) = self.decide(cx, &ask)? {
            return Ok(*image);
        }
        let (sender, receiver) = bounded(1);
        let ticket = match self.join(cx, &ask, Waker::Thread(sender)) {
            Ok(ticket) => ticket,
            Err(refused) => return self.refuse(cx, &ask, refused.why),
        };
        let news = match cx.wait_for(&receiver) {
            Ok(Some(news)) => news,
            Ok(None) => News::Left(Error::new(ErrorKind::Panicked, "the pull's work panicked")),
            Err(error) => {
                self.leave(ticket, error.clone());
                News::Left(error)
            }
        };
        self.settle(cx, &ask, news)
    }

    /// The same for a request that no thread waits for, up to where it would wait.
    pub(super) fn ensure_submitted(self: &Arc<Self>, submitted: Submitted) {
        let Submitted { cx, request, throttle, reply } = submitted;
        let asked = self.read(&cx, &request, throttle).and_then(|ask| Ok((self.decide(&cx, &ask)?, ask)));
        let ask = match asked {
            Ok((Next::Pull, ask)) => ask,
            Ok((Next::Answer(image), _)) => return reply.answer(Ok(*image), &self.channels.closing),
            Err(error) => return reply.answer(Err(error), &self.channels.closing),
        };
        match self.join(&cx, &ask, Waker::Reply(reply)) {
            Ok(ticket) => self.watch(&cx, ticket),
            Err(refused) => {
                let Refused { why, waker } = *refused;
                let outcome = self.refuse(&cx, &ask, why);
                if let Waker::Reply(reply) = waker {
                    reply.answer(outcome, &self.channels.closing);
                }
            }
        }
    }

    /// The rest of it.
    pub(super) fn settle_submitted(&self, settling: Settling) {
        let Settling { cx, ask, news, reply } = settling;
        reply.answer(self.settle(&cx, &ask, news), &self.channels.closing);
    }

    /// Sees to it that a cancel reaches an asker that no thread waits for. The hook goes in after the
    /// asker has its seat, for it may run at once.
    fn watch(self: &Arc<Self>, cx: &PullContext, ticket: Ticket) {
        let Some(token) = cx.cancel_token() else { return };
        let core = Arc::downgrade(self);
        let hook = token.on_cancel(move || {
            if let Some(core) = core.upgrade() {
                core.leave(ticket, Error::new(ErrorKind::Cancelled, "the caller cancelled the request"));
            }
        });
        // One whose asker has left is dropped here, and not under the lock.
        let unneeded = self.flights.lock().attach(ticket, hook);
        drop(unneeded);
    }

    // ---- reading ----

    fn read(&self, cx: &PullContext, request: &EnsureRequest, throttle: Throttle) -> Result<Arc<Ask>, Error> {
        if request.owner.is_empty() {
            return Err(
                Error::new(ErrorKind::InvalidConfig, "owner is empty").with_image(&request.image.image)
            );
        }
        let reference = parse(&request.image.image).inspect_err(|error| {
            self.count(request, None, None);
            let message = events::no_name(&request.image.image, error);
            self.tell_of(request, EventReason::InspectFailed, message);
        })?;
        cx.check().map_err(|error| error.with_image(&request.image.image).with_phase(Phase::Queued))?;
        let mut image = request.image.clone();
        if reference.is_tagged_by_default() {
            image.image.push_str(":latest");
        }
        let landings_before = self.flights.lock().landings();
        Ok(Arc::new(Ask {
            landings_before,
            back_off_key: Arc::new(Key { owner: request.owner.clone(), image: image.image.clone() }),
            credentials: SecretsHash::of(&request.pull_secrets),
            request: request.clone(),
            image,
            reference,
            asked_at: self.now(),
            throttle,
        }))
    }

    // ---- looking ----

    /// Whether what is there will do.
    fn decide(&self, cx: &PullContext, ask: &Ask) -> Result<Next, Error> {
        let request = &ask.request;
        if !request.policy.looks_first() {
            self.count(request, None, Some(true));
            return Ok(Next::Pull);
        }
        let found = self.look(cx, ask).map_err(|error| {
            self.count(request, None, None);
            self.tell(ask, EventReason::InspectFailed, events::not_inspected(ask.typed(), &error));
            error.with_image(ask.typed())
        })?;
        match (found, request.policy) {
            (Found::Usable(image_ref), _) => {
                self.count(request, Some(true), Some(false));
                let image = self.present(ask, image_ref, ImageSource::Present);
                Ok(Next::Answer(Box::new(image)))
            }
            (Found::Nothing, PullPolicy::Never) => {
                self.count(request, Some(false), None);
                Err(self.never(ask, events::absent_and_never(ask.typed())))
            }
            (Found::Unproven, PullPolicy::Never) => {
                self.count(request, Some(true), Some(true));
                Err(self.never(ask, events::not_authorised_and_never(ask.typed())))
            }
            (found, _) => {
                self.count(request, Some(matches!(found, Found::Unproven)), Some(true));
                Ok(Next::Pull)
            }
        }
    }

    fn look(&self, cx: &PullContext, ask: &Ask) -> Result<Found, Error> {
        let image_ref = self.image_ref(cx, ask)?;
        Ok(image_ref.map_or(Found::Nothing, |image_ref| self.prove(ask, image_ref)))
    }

    /// Asks the service for the image's id; `None` if it is not there, or if the service cannot tell.
    pub(super) fn image_ref(&self, cx: &PullContext, ask: &Ask) -> Result<Option<ImageRef>, Error> {
        let answer = catch_unwind(AssertUnwindSafe(|| self.service.image_ref(cx, &ask.image)))
            .unwrap_or_else(|panic| Err(panicked(&*panic, "the image service")));
        match answer {
            Ok(image_ref) => Ok(image_ref.filter(|image_ref| !image_ref.is_empty())),
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the asker may use the image that is there, as far as it must be known.
    fn prove(&self, ask: &Ask, image_ref: ImageRef) -> Found {
        let Some(records) = &self.records else { return Found::Usable(image_ref) };
        let was_pulled = records.was_pulled(&image_ref, &ask.image.image);
        let may_use = !self.verification.is_needed(&ask.reference, was_pulled) || {
            let marks: Vec<_> = ask.request.pull_secrets.iter().map(SecretMark::of).collect();
            records.may_use(&image_ref, &ask.reference, &marks)
        };
        if may_use { Found::Usable(image_ref) } else { Found::Unproven }
    }

    /// Whether an asker whose pull has come to its turn can do without: the image came meanwhile.
    pub(super) fn can_do_without(&self, ask: &Ask, image_ref: &ImageRef) -> bool {
        ask.request.policy == PullPolicy::IfNotPresent
            && matches!(self.prove(ask, image_ref.clone()), Found::Usable(_))
    }

    // ---- asking for a pull ----

    fn join(
        self: &Arc<Self>,
        cx: &PullContext,
        ask: &Arc<Ask>,
        waker: Waker,
    ) -> Result<Ticket, Box<Refused>> {
        let now = self.now();
        let joined = self.flights.lock().join(ask, cx, waker, now)?;
        self.push_ready(joined.ready);
        match joined.stage {
            Stage::Queued => report(cx, &ProgressEvent::Queued),
            Stage::Handed => {}
            Stage::Pulling(_) => {
                self.tell(ask, EventReason::Pulling, events::pulling(ask.typed()));
                report(cx, &ProgressEvent::Started);
            }
        }
        Ok(joined.ticket)
    }

    fn refuse(&self, cx: &PullContext, ask: &Ask, why: Refusal) -> Result<EnsuredImage, Error> {
        match why {
            Refusal::ShutDown => Err(shut_down().with_image(ask.typed())),
            Refusal::Held(held) => {
                self.tell(ask, EventReason::BackOff, events::back_off(ask.typed()));
                self.fall_back(cx, ask, &held.cause).unwrap_or_else(|| Err(backing_off(ask, &held)))
            }
            Refusal::Throttled => {
                let error = Error::new(ErrorKind::RateLimited, "pull QPS exceeded").with_image(ask.typed());
                self.tell(ask, EventReason::Failed, events::failed(ask.typed(), &error));
                Err(error.with_phase(Phase::Queued))
            }
        }
    }

    // ---- answering ----

    fn settle(&self, cx: &PullContext, ask: &Ask, news: News) -> Result<EnsuredImage, Error> {
        match news {
            News::Present(image_ref) => Ok(self.present(ask, image_ref, ImageSource::Present)),
            News::Left(error) => Err(error.with_image(ask.typed()).with_phase(Phase::Queued)),
            News::Landed { landing, is_first } => match &landing.outcome {
                Ok(image) => Ok(self.pulled(ask, image, &landing)),
                Err(error) => self.failed(cx, ask, error, is_first),
            },
        }
    }

    fn pulled(&self, ask: &Ask, image: &PulledImage, landing: &Landing) -> EnsuredImage {
        let began_at = landing.began_at.unwrap_or(ask.asked_at);
        let wait_duration = began_at.saturating_duration_since(ask.asked_at);
        let Landing { size, pull_duration, .. } = *landing;
        let message = events::pulled(ask.typed(), pull_duration, wait_duration, size);
        self.tell(ask, EventReason::Pulled, message.clone());
        EnsuredImage {
            image_ref: image.image_ref.clone(),
            image: ask.image.clone(),
            source: ImageSource::Pulled { image: image.clone(), size, wait_duration, pull_duration },
            message,
        }
    }

    /// One failure answers all, but each by its own policy; who only joined looks again, for the image
    /// may have come by another way since.
    fn failed(
        &self,
        cx: &PullContext,
        ask: &Ask,
        error: &Error,
        is_first: bool,
    ) -> Result<EnsuredImage, Error> {
        if !is_first
            && ask.request.policy == PullPolicy::IfNotPresent
            && let Ok(Found::Usable(image_ref)) = self.look(cx, ask)
        {
            return Ok(self.present(ask, image_ref, ImageSource::Present));
        }
        self.tell(ask, EventReason::Failed, events::failed(ask.typed(), error));
        self.fall_back(cx, ask, error).unwrap_or_else(|| Err(error.clone().with_image(ask.typed())))
    }

    /// What is there, if the policy allows it when the registry cannot be reached; `None` if it does
    /// not, or nothing is there.
    fn fall_back(&self, cx: &PullContext, ask: &Ask, cause: &Error) -> Option<Result<EnsuredImage, Error>> {
        if ask.request.policy != PullPolicy::PullIfPossible || !is_out_of_reach(cause) {
            return None;
        }
        match self.look(cx, ask) {
            Ok(Found::Usable(image_ref)) => {
                Some(Ok(self.present(ask, image_ref, ImageSource::Fallback { cause: cause.clone() })))
            }
            Ok(Found::Nothing | Found::Unproven) => None,
            Err(error) => {
                log::warn!("{}: nobody can tell whether the image is there: {error}", ask.typed());
                None
            }
        }
    }

    fn present(&self, ask: &Ask, image_ref: ImageRef, source: ImageSource) -> EnsuredImage {
        let message = events::already_present(ask.typed());
        self.flights.lock().metrics.count_present(&source);
        self.tell(ask, EventReason::Pulled, message.clone());
        EnsuredImage { image_ref, image: ask.image.clone(), source, message }
    }

    fn never(&self, ask: &Ask, message: String) -> Error {
        self.tell(ask, EventReason::ErrImageNeverPull, message.clone());
        Error::new(ErrorKind::NeverPull, message).with_image(ask.typed())
    }

    fn count(&self, request: &EnsureRequest, is_present: Option<bool>, needs_pull: Option<bool>) {
        let labels = RequestLabels::new(request.policy, is_present, needs_pull);
        self.flights.lock().metrics.count_request(labels);
    }
}

/// Reads an image name, and names the field if it is none.
pub(super) fn parse(image: &str) -> Result<Reference, Error> {
    if image.is_empty() {
        return Err(Error::new(ErrorKind::InvalidReference, "image is empty"));
    }
    Reference::parse(image)
}

fn backing_off(ask: &Ask, held: &Held) -> Error {
    // Rounded up: zero is not left.
    let left = GoDuration(held.left + Duration::from_micros(999));
    let advice = if is_permanent(&held.cause) {
        "; trying again does not help until the image, the request or the credentials change"
    } else {
        ""
    };
    let message = format!("{}: {}; {left} left{advice}", events::back_off(ask.typed()), held.cause);
    Error::new(ErrorKind::BackOff, message).with_image(ask.typed()).with_source(held.cause.clone())
}

/// Whether the registry could not be asked, or could not answer: which says nothing about the image.
fn is_out_of_reach(error: &Error) -> bool {
    use ErrorKind::*;
    matches!(error.kind(), HostNotFound | ConnectionFailed | Timeout | Unavailable | RateLimited)
}
