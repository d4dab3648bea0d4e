//! One pull, from its claim to its result, and the state that all pulls of a puller share: the service, the counts,
//! the timer, and how the puller ends.

use std::convert::Infallible;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use super::image_puller::PullerStats;
use super::queued::{Pending, Queued};
use super::rejected::{RejectReason, Rejected};
use super::result::PullResult;
use crate::context::{CancelToken, PullContext};
use crate::error::{Error, ErrorKind, Phase};
use crate::progress::ProgressEvent;
use crate::service::{ImageService, PullRequest, PulledImage};
use crate::sync::{Answer, LISTENING_TIME, ThreadGroup, Timer, deliver, offer_or_drop, panic_text};

/// The stack of each thread of a puller, bytes.
pub(super) const DEFAULT_STACK_SIZE: usize = 256 * 1024;

/// What the pulls of one puller share.
pub(super) struct Pulls<S> {
    service: S,
    threads: ThreadGroup,
    timer: Timer<PullResult>,
    counts: Counts,
    /// Cancelled when the shutdown begins.
    closing: CancelToken,
    /// Cancels the running pulls when the shutdown's grace is over.
    stop: CancelToken,
}

#[derive(Default)]
struct Counts {
    /// Requests that were taken in and are not answered yet.
    open: AtomicUsize,
    running: AtomicUsize,
    succeeded: AtomicU64,
    failed: AtomicU64,
}

/// A pull that runs on the current thread.
pub(super) struct Pull<'a, S> {
    pulls: &'a Pulls<S>,
    cx: PullContext,
    request: PullRequest,
    results: Sender<PullResult>,
    wait_duration: Duration,
    begun_at: Instant,
    panicked: bool,
}

impl<S: ImageService> Pull<'_, S> {
    /// Calls the service; a panic of it is an error.
    pub(super) fn pull_image(&mut self) -> Result<PulledImage, Error> {
        let pulled = catch_unwind(AssertUnwindSafe(|| {
            self.cx.check().map_err(|error| error.with_phase(Phase::Queued))?;
            self.cx.report(&ProgressEvent::Started);
            self.pulls.service.pull_image(&self.cx, &self.request)
        }));
        let pulled = pulled.unwrap_or_else(|panic| {
            self.panicked = true;
            Err(panicked(&*panic, &self.request.image.image))
        });
        pulled.map_err(|error| error.with_image(&self.request.image.image))
    }

    /// Asks for the size of an image that was pulled; `None` if the service cannot tell.
    pub(super) fn image_size(&mut self, pulled: &Result<PulledImage, Error>) -> Option<u64> {
        pulled.as_ref().ok().filter(|pulled| !pulled.image_ref.is_empty())?;
        let asked =
            catch_unwind(AssertUnwindSafe(|| self.pulls.service.image_size(&self.cx, &self.request.image)));
        let size = asked.unwrap_or_else(|panic| {
            self.panicked = true;
            Err(panicked(&*panic, &self.request.image.image))
        });
        size.inspect_err(|error| log::warn!("the size of a pulled image is not known: {error}")).ok()
    }

    /// Sends the result, and waits while its channel is full, until the shutdown begins. Returns whether
    /// the service panicked.
    pub(super) fn send_result(self, pulled: Result<PulledImage, Error>, image_size: Option<u64>) -> bool {
        self.pulls.counts.running.fetch_sub(1, Ordering::Relaxed);
        self.pulls.count(pulled.is_ok());
        let durations = (self.wait_duration, self.begun_at.elapsed());
        let result = PullResult::new(self.request, pulled, image_size, durations);
        deliver(&self.results, result, self.pulls.closing());
        drop_foreign(self.cx);
        self.panicked
    }
}

impl<S: ImageService> Pulls<S> {
    pub(super) fn new(service: S, stack_size: usize) -> Arc<Self> {
        let threads = ThreadGroup::new(stack_size);
        Arc::new(Pulls {
            service,
            timer: Timer::new("pull-timer", threads.clone()),
            threads,
            counts: Counts::default(),
            closing: CancelToken::new(),
            stop: CancelToken::new(),
        })
    }

    /// Takes a request in and counts it, unless there are `limit` of them that are not answered.
    pub(super) fn admit(&self, pending: Pending, limit: usize) -> Result<Queued, Rejected> {
        let one_more = |open: usize| (open < limit).then_some(open + 1);
        match self.counts.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(Queued::new(pending)),
            Err(_) => Err(Rejected::new(pending, RejectReason::Full)),
        }
    }

    /// Begins the pull of a request that was popped; `None` if it was answered meanwhile.
    pub(super) fn begin(&self, queued: &Queued) -> Option<Pull<'_, S>> {
        let pending = queued.claim()?;
        if self.is_closing() {
            self.refuse(pending, RejectReason::ShutDown.into_error());
            return None;
        }
        let Pending { cx, request, results, asked_at } = pending;
        self.counts.running.fetch_add(1, Ordering::Relaxed);
        let begun_at = Instant::now();
        Some(Pull {
            pulls: self,
            cx: cx.or_cancelled_by(&self.stop),
            request,
            results,
            wait_duration: begun_at.duration_since(asked_at),
            begun_at,
            panicked: false,
        })
    }

    /// Sees to a request in the queue: its cancel and its deadline answer it at once, and so does a
    /// shutdown that began before it was there.
    pub(super) fn watch(self: &Arc<Self>, queued: &Queued)
    where
        S: 'static,
    {
        if self.is_closing() {
            return self.refuse_queued(queued, &RejectReason::ShutDown.into_error());
        }
        let Some((token, deadline)) = queued.ends() else { return };
        if token.is_none() && deadline.is_none() {
            return;
        }
        let hook = token.map(|token| token.on_cancel(self.refusal(queued, cancelled)));
        let alarm = deadline.map(|deadline| self.timer.at(deadline, self.refusal(queued, expired)));
        queued.attach(hook, alarm);
    }

    fn refusal(self: &Arc<Self>, queued: &Queued, why: fn() -> Error) -> impl FnOnce() + Send + use<S>
    where
        S: 'static,
    {
        let (pulls, claim) = (Arc::downgrade(self), queued.weak_claim());
        move || {
            if let (Some(pulls), Some(pending)) = (pulls.upgrade(), claim()) {
                pulls.refuse(pending, why());
            }
        }
    }

    /// Answers a request that was taken in and not begun. Never blocks: a result without room goes to the
    /// timer's thread.
    fn refuse(&self, pending: Pending, error: Error) {
        self.count(false);
        let (results, result) = refused(pending, error);
        self.timer.deliver(&results, result);
    }

    /// [`refuse`](Self::refuse)s a request in the queue, unless it was answered meanwhile.
    pub(super) fn refuse_queued(&self, queued: &Queued, error: &Error) {
        if let Some(pending) = queued.claim() {
            self.refuse(pending, error.clone());
        }
    }

    /// Refuses a request whose caller waits no more, for its context ended or the shutdown began.
    pub(super) fn refuse_ended(&self, queued: &Queued, cx: &PullContext) {
        let shut_down = self.is_closing().then(|| RejectReason::ShutDown.into_error());
        self.refuse_queued(queued, &shut_down.unwrap_or_else(|| cx.ended()));
    }

    /// Answers a request that was not taken in, on the caller's own thread: its result is only offered.
    pub(super) fn reject(&self, rejected: Rejected) {
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        let (pending, reason) = rejected.into_pending();
        let (results, result) = refused(pending, reason.into_error());
        offer_or_drop(&results, result);
    }

    fn count(&self, is_success: bool) {
        self.counts.open.fetch_sub(1, Ordering::Relaxed);
        let counter = if is_success { &self.counts.succeeded } else { &self.counts.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many requests were taken in and have not begun.
    pub(super) fn waiting(&self) -> usize {
        let open = self.counts.open.load(Ordering::Relaxed);
        open.saturating_sub(self.counts.running.load(Ordering::Relaxed))
    }

    pub(super) fn stats(&self, queued: usize, waiting: usize) -> PullerStats {
        PullerStats {
            queued,
            waiting,
            running: self.counts.running.load(Ordering::Relaxed),
            succeeded: self.counts.succeeded.load(Ordering::Relaxed),
            failed: self.counts.failed.load(Ordering::Relaxed),
            threads: self.threads.alive(),
        }
    }

    /// Starts a thread of the puller.
    pub(super) fn spawn(&self, name: String, body: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        self.threads.spawn(name, body).map_err(no_thread)
    }

    // ---- the end ----

    /// Returns a channel that is disconnected when the shutdown begins.
    pub(super) fn closing(&self) -> &Receiver<Infallible> {
        self.closing.cancelled()
    }

    /// Returns whether the shutdown has begun.
    ///
    /// A request is put into the queue before this is asked, and the shutdown looks into the queue after
    /// [`close`](Self::close). The fences order both, so at least one of the two sees the other.
    fn is_closing(&self) -> bool {
        fence(Ordering::SeqCst);
        self.closing.is_cancelled()
    }

    /// Begins the shutdown: nothing is taken in any more.
    pub(super) fn close(&self) {
        self.closing.cancel();
        fence(Ordering::SeqCst);
    }

    /// Ends the shutdown: running pulls may finish within `grace` and are cancelled then, and the threads are
    /// joined.
    pub(super) fn end(&self, grace: Duration) {
        self.timer.close();
        if !self.threads.wait_until(Instant::now().checked_add(grace)) {
            self.stop.cancel();
        }
        self.threads.join(LISTENING_TIME);
    }
}

impl Answer for PullResult {
    fn summary(&self) -> String {
        match &self.outcome {
            Ok(pulled) => format!("{}: pulled {}", self.image.image, pulled.image_ref),
            Err(error) => error.to_string(),
        }
    }
}

/// The result of a request that no pull was begun for.
fn refused(pending: Pending, error: Error) -> (Sender<PullResult>, PullResult) {
    let Pending { cx, request, results, asked_at } = pending;
    drop_foreign(cx);
    let error = error.with_image(&request.image.image).with_phase(Phase::Queued);
    let result = PullResult::new(request, Err(error), None, (asked_at.elapsed(), Duration::ZERO));
    (results, result)
}

/// Drops a context, which may own code of the caller's. A panic of it harms nothing here.
fn drop_foreign(cx: PullContext) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(cx))) {
        log::error!("the context of a pull panicked when it was dropped: {}", panic_text(&*panic));
    }
}

fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "the caller cancelled the pull before it began")
}

fn expired() -> Error {
    Error::new(ErrorKind::Timeout, "the deadline passed in the queue")
}

fn no_thread(error: io::Error) -> Error {
    Error::new(ErrorKind::ResourceExhausted, format!("no thread could be started: {error}"))
        .with_source(error)
}

fn panicked(panic: &(dyn std::any::Any + Send), image: &str) -> Error {
    let text = panic_text(panic);
    let error = Error::new(ErrorKind::Panicked, format!("the image service panicked: {text}"));
    let error = error.with_image(image);
    log::error!("{error}");
    error
}
