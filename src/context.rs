//! The context of a call that may block: cancellation, a deadline and a receiver of progress.

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

/// Cancels the calls that have this token, a clone or a child of it. A cancelled token stays cancelled.
#[derive(Clone, Default)]
pub struct CancelToken(Arc<TokenState>);

#[derive(Default)]
struct TokenState {
    cancelled: AtomicBool,
    waiting: Mutex<TokenWaiters>,
    /// Created by the first call of `cancelled`.
    channel: OnceLock<Receiver<Infallible>>,
    /// This token's hooks in its parents. They keep the parents alive, and are dropped with this token.
    parents: OnceLock<Vec<CancelHook>>,
}

#[derive(Default)]
struct TokenWaiters {
    next_hook: u64,
    /// The hooks by number. Most tokens have one hook, for which a B-tree would take twice the memory.
    hooks: HashMap<u64, Box<dyn FnOnce() + Send>>,
    /// Dropped on cancel, which disconnects the receivers.
    sender: Option<Sender<Infallible>>,
}

impl CancelToken {
    /// Creates a token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a token that is cancelled with this one, and can be cancelled alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self::child_of(&[self])
    }

    /// Creates a token that is cancelled as soon as one of `parents` is.
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

    /// Cancels the token: wakes each receiver of [`cancelled`](Self::cancelled), then runs the hooks on this thread.
    /// Later calls do nothing.
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

    /// Returns whether this token, or one of its parents, was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Acquire)
    }

    /// Returns a channel that carries no message and is disconnected by the cancel: an arm for a `select!`.
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

    /// Runs `hook` when this token is cancelled, on the thread that cancels it. If the token is cancelled already,
    /// runs it at once on this thread. The hook should be short and must not block. A panic in it is caught and
    /// logged.
    ///
    /// Dropping the returned value removes the hook, but does not wait for a hook that runs.
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
        log::error!("a cancel hook panicked");
    }
}

/// A hook in a [`CancelToken`], removed when this value is dropped.
#[must_use = "dropping it removes the hook"]
pub struct CancelHook {
    token: CancelToken,
    id: u64,
}

impl Drop for CancelHook {
    fn drop(&mut self) {
        // Dropped after the lock is released: a value that the hook owns may use this token in its drop.
        let hook = self.token.0.waiting.lock().hooks.remove(&self.id);
        drop(hook);
    }
}

impl fmt::Debug for CancelHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelHook").field("token", &self.token).finish_non_exhaustive()
    }
}

/// The context of a pull, passed to each call that may block: a token that cancels it, a deadline, and a receiver
/// of progress. Cheap to clone.
#[derive(Clone, Default)]
pub struct PullContext {
    cancel: Option<CancelToken>,
    deadline: Option<Instant>,
    progress: Option<Arc<dyn Progress>>,
}

impl PullContext {
    /// Creates a context without token, deadline and receiver of progress.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the token that cancels the pull. Default: none.
    #[must_use]
    pub fn with_cancel(mut self, token: &CancelToken) -> Self {
        self.cancel = Some(token.clone());
        self
    }

    /// Sets when the pull must end. Default: no deadline.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sets that the pull must end `timeout` from now. A timeout that the clock cannot represent is no deadline.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.deadline = Instant::now().checked_add(timeout);
        self
    }

    /// Sets the receiver of progress events, for example a [`Sender`] of them. Default: none.
    #[must_use]
    pub fn with_progress(mut self, progress: impl Progress + 'static) -> Self {
        self.progress = Some(Arc::new(progress));
        self
    }

    /// Returns the same context, which also ends when `token` is cancelled.
    pub(crate) fn or_cancelled_by(&self, token: &CancelToken) -> Self {
        let both = match &self.cancel {
            Some(own) => CancelToken::child_of(&[own, token]),
            None => token.clone(),
        };
        PullContext { cancel: Some(both), deadline: self.deadline, progress: self.progress.clone() }
    }

    /// Returns the token that cancels the pull.
    pub fn cancel_token(&self) -> Option<&CancelToken> {
        self.cancel.as_ref()
    }

    /// Returns when the pull must end.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Returns the time until the deadline: zero after it, `None` without one.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Returns whether the pull was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(CancelToken::is_cancelled)
    }

    /// Returns an error if the context has ended.
    ///
    /// # Errors
    /// [`Cancelled`](ErrorKind::Cancelled) or [`Timeout`](ErrorKind::Timeout).
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

    /// Returns a channel that is disconnected by the cancel, for a `select!`; without a token, one that stays
    /// connected.
    pub fn cancelled(&self) -> Receiver<Infallible> {
        self.cancel.as_ref().map_or_else(never, |token| token.cancelled().clone())
    }

    /// Returns a channel that carries a message at the deadline, for a `select!`; without a deadline, none.
    pub fn expired(&self) -> Receiver<Instant> {
        self.deadline.map_or_else(never, at)
    }

    /// Waits for a message. Returns `None` if the channel is disconnected.
    ///
    /// # Errors
    /// [`Cancelled`](ErrorKind::Cancelled) or [`Timeout`](ErrorKind::Timeout), as soon as the context ends.
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
    /// [`Cancelled`](ErrorKind::Cancelled) or [`Timeout`](ErrorKind::Timeout), as soon as the context ends.
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
    /// [`Cancelled`](ErrorKind::Cancelled) or [`Timeout`](ErrorKind::Timeout), as soon as the context ends.
    pub fn sleep(&self, delay: Duration) -> Result<(), Error> {
        self.wait_for(&crossbeam_channel::after(delay)).map(drop)
    }

    /// Passes an event to the receiver of progress.
    pub fn report(&self, event: &ProgressEvent) {
        if let Some(progress) = &self.progress {
            progress.event(event);
        }
    }

    /// Returns whether the context has a receiver of progress.
    pub(crate) fn is_watched(&self) -> bool {
        self.progress.is_some()
    }

    /// Returns the error of a wait that the context has ended.
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
