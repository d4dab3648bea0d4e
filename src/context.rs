//! What is handed down every call that may block: cancellation, a deadline, and who watches.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, at, bounded, never, select};
use parking_lot::Mutex;

use crate::error::{Error, ErrorKind};
use crate::progress::{Progress, ProgressEvent};
use crate::sync::{Permit, Semaphore};

/// Cancels whatever was given it, a clone or a child of it; once, and for good.
#[derive(Clone, Default)]
pub struct CancelToken(Arc<TokenState>);

#[derive(Default)]
struct TokenState {
    cancelled: AtomicBool,
    waiting: Mutex<Waiting>,
    /// Made by the first who wants to `select!` on it.
    channel: OnceLock<Receiver<Infallible>>,
    /// This token's hooks in its parents; they keep the parents alive, and go with this token.
    parents: OnceLock<Vec<CancelHook>>,
}

#[derive(Default)]
struct Waiting {
    next_hook: u64,
    /// By number. Most tokens have one hook, for which a B-tree would take twice the memory.
    hooks: HashMap<u64, Box<dyn FnOnce() + Send>>,
    /// Dropped on cancel, which is what the receivers notice.
    sender: Option<Sender<Infallible>>,
}

impl CancelToken {
    /// A token that nobody has cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// A token that is cancelled with this one, and can be cancelled without it.
    #[must_use]
    pub fn child(&self) -> Self {
        Self::child_of(&[self])
    }

    /// A token that is cancelled as soon as one of `parents` is.
    pub(crate) fn child_of(parents: &[&CancelToken]) -> Self {
        let child = CancelToken::new();
        let hooks = parents.iter().map(|parent| {
            let state = Arc::downgrade(&child.0);
            parent.on_cancel(move || {
                if let Some(state) = state.upgrade() {
                    CancelToken(state).cancel();
                }
            })
        });
        let _ = child.0.parents.set(hooks.collect());
        child
    }

    /// Cancels: wakes every receiver of [`cancelled`](Self::cancelled), then runs the hooks on this
    /// thread. The second call and later ones do nothing.
    pub fn cancel(&self) {
        let hooks = {
            let mut waiting = self.0.waiting.lock();
            if self.0.cancelled.swap(true, Ordering::AcqRel) {
                return;
            }
            drop(waiting.sender.take());
            std::mem::take(&mut waiting.hooks)
        };
        let mut in_order: Vec<_> = hooks.into_iter().collect();
        in_order.sort_unstable_by_key(|(number, _)| *number);
        for (_, hook) in in_order {
            run_hook(hook);
        }
    }

    /// Whether this token, or one of its parents, was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Acquire)
    }

    /// A channel that never carries a message and is disconnected by the cancel: one more arm for a
    /// `select!`.
    pub fn cancelled(&self) -> &Receiver<Infallible> {
        self.0.channel.get_or_init(|| {
            let (sender, receiver) = bounded(0);
            let mut waiting = self.0.waiting.lock();
            if !self.is_cancelled() {
                waiting.sender = Some(sender);
            }
            receiver
        })
    }

    /// Runs `hook` when this token is cancelled, on the thread that cancels; at once, and on this
    /// thread, if it already is. It should be short and must not block. A panic in it is caught and
    /// logged.
    ///
    /// Dropping what is returned takes the hook back, but does not wait for one that runs.
    pub fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) -> CancelHook {
        let mut waiting = self.0.waiting.lock();
        let id = waiting.next_hook;
        if self.is_cancelled() {
            drop(waiting);
            run_hook(Box::new(hook));
        } else {
            waiting.next_hook += 1;
            waiting.hooks.insert(id, Box::new(hook));
        }
        CancelHook { token: self.clone(), id }
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken").field("cancelled", &self.is_cancelled()).finish()
    }
}

fn run_hook(hook: Box<dyn FnOnce() + Send>) {
    if catch_unwind(AssertUnwindSafe(hook)).is_err() {
        log::error!("a hook that was to run on a cancel panicked");
    }
}

/// A hook in a [`CancelToken`], taken back when this is dropped.
#[must_use = "dropping it takes the hook back"]
pub struct CancelHook {
    token: CancelToken,
    id: u64,
}

impl Drop for CancelHook {
    fn drop(&mut self) {
        // Bound before the drop: what the hook owns may have drops that come back to this token.
        let hook = self.token.0.waiting.lock().hooks.remove(&self.id);
        drop(hook);
    }
}

impl fmt::Debug for CancelHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelHook").field("token", &self.token).finish_non_exhaustive()
    }
}

/// Goes with a pull through every call that may block: whether it was cancelled, when it must end,
/// and who is told how it goes. Cheap to clone.
#[derive(Clone, Default)]
pub struct PullContext {
    cancel: Option<CancelToken>,
    deadline: Option<Instant>,
    progress: Option<Arc<dyn Progress>>,
}

impl PullContext {
    /// Never cancelled, no deadline, nobody watching.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends with `token`, instead of with the token it had.
    #[must_use]
    pub fn with_cancel(mut self, token: &CancelToken) -> Self {
        self.cancel = Some(token.clone());
        self
    }

    /// Must end at `deadline`. Default: no deadline.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Must end `timeout` from now; one too long for the clock is none.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.deadline = Instant::now().checked_add(timeout);
        self
    }

    /// Tells `progress` how the pull goes. Default: nobody.
    #[must_use]
    pub fn with_progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = Some(progress);
        self
    }

    /// The same context, which ends also when `token` is cancelled.
    pub(crate) fn or_cancelled_by(&self, token: &CancelToken) -> Self {
        let both = match &self.cancel {
            Some(own) => CancelToken::child_of(&[own, token]),
            None => token.clone(),
        };
        PullContext { cancel: Some(both), deadline: self.deadline, progress: self.progress.clone() }
    }

    /// The token that cancels this context, if it has one.
    pub fn cancel_token(&self) -> Option<&CancelToken> {
        self.cancel.as_ref()
    }

    /// When it must end.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// How long is left until the deadline; zero when it has passed, `None` without one.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(CancelToken::is_cancelled)
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// `Cancelled` or `Timeout`.
    pub fn check(&self) -> Result<(), Error> {
        if self.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "the caller cancelled the pull"));
        }
        match self.deadline {
            Some(deadline) if deadline <= Instant::now() => {
                Err(Error::new(ErrorKind::Timeout, "the pull's deadline passed"))
            }
            _ => Ok(()),
        }
    }

    /// A channel that is disconnected by the cancel, for a `select!`; one that never is without a
    /// token.
    pub fn cancelled(&self) -> Receiver<Infallible> {
        self.cancel.as_ref().map_or_else(never, |token| token.cancelled().clone())
    }

    /// A channel that fires at the deadline, for a `select!`; never without one.
    pub fn expired(&self) -> Receiver<Instant> {
        self.deadline.map_or_else(never, at)
    }

    /// Waits for a message: the message, or `None` when its senders are gone.
    ///
    /// # Errors
    /// `Cancelled` or `Timeout`, as soon as the context ends.
    pub fn wait_for<T>(&self, messages: &Receiver<T>) -> Result<Option<T>, Error> {
        self.check()?;
        select! {
            recv(messages) -> message => Ok(message.ok()),
            recv(self.cancelled()) -> _ => Err(self.ended()),
            recv(self.expired()) -> _ => Err(self.ended()),
        }
    }

    /// Waits for a permit.
    ///
    /// # Errors
    /// `Cancelled` or `Timeout`, as soon as the context ends.
    pub(crate) fn acquire(&self, semaphore: &Semaphore) -> Result<Permit, Error> {
        loop {
            if let Some(permit) = semaphore.try_acquire() {
                return Ok(permit);
            }
            if let Some(permit) = self.wait_for(semaphore.acquire().granted())? {
                return Ok(permit);
            }
        }
    }

    /// Sleeps for `delay`, or until the context ends.
    ///
    /// # Errors
    /// `Cancelled` or `Timeout`, as soon as the context ends.
    pub fn sleep(&self, delay: Duration) -> Result<(), Error> {
        self.wait_for(&crossbeam_channel::after(delay)).map(drop)
    }

    /// Tells whoever watches.
    pub fn report(&self, event: &ProgressEvent<'_>) {
        if let Some(progress) = &self.progress {
            progress.event(event);
        }
    }

    /// Whether somebody is told.
    pub(crate) fn is_watched(&self) -> bool {
        self.progress.is_some()
    }

    /// Why a wait that the context interrupted ended.
    pub(crate) fn ended(&self) -> Error {
        self.check().err().unwrap_or_else(|| Error::new(ErrorKind::Timeout, "the pull's deadline passed"))
    }
}

impl fmt::Debug for PullContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullContext")
            .field("cancelled", &self.is_cancelled())
            .field("deadline", &self.deadline)
            .field("watched", &self.progress.is_some())
            .finish()
    }
}
