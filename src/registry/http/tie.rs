//! Ties a socket to the pull that uses it at the moment.
//!
//! A pooled connection serves one pull after another and passes no connector again, so a socket cannot
//! know its pull. But a blocking call stays on its thread: what the thread is doing it for is noted
//! there, and the socket looks it up at each read and write. A cancel shuts down the socket that its
//! pull is waiting on, and no other.

use std::cell::RefCell;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::context::{CancelHook, PullContext};
use crate::error::Error;

thread_local! {
    static CURRENT: RefCell<Option<Arc<Tie>>> = const { RefCell::new(None) };
}

/// One exchange of one pull.
pub(super) struct Tie {
    cx: PullContext,
    /// The socket that is being waited on; only while it is.
    waiting_on: Mutex<Option<Arc<TcpStream>>>,
}

impl Tie {
    /// A tie to the pull of `cx`, and the hook that makes its cancel felt, to be kept as long.
    ///
    /// # Errors
    /// `Cancelled` or `Timeout` if it is over already.
    pub(super) fn to(cx: &PullContext) -> Result<(Arc<Self>, Option<CancelHook>), Error> {
        cx.check()?;
        let tie = Arc::new(Tie { cx: cx.clone(), waiting_on: Mutex::new(None) });
        let hook = cx.cancel_token().map(|token| {
            let tie = Arc::downgrade(&tie);
            token.on_cancel(move || {
                if let Some(tie) = tie.upgrade() {
                    tie.interrupt();
                }
            })
        });
        Ok((tie, hook))
    }

    /// The exchange that this thread is busy with.
    pub(super) fn current() -> Option<Arc<Self>> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Runs `work`, with this as the current exchange of the thread.
    pub(super) fn during<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        struct Restore(Option<Arc<Tie>>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        let _restore = Restore(CURRENT.replace(Some(Arc::clone(self))));
        work()
    }

    pub(super) fn cx(&self) -> &PullContext {
        &self.cx
    }

    /// Waits on `socket` with `wait`, which a cancel makes fail.
    pub(super) fn wait_on<T>(
        &self,
        socket: &Arc<TcpStream>,
        wait: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        *self.waiting_on.lock() = Some(Arc::clone(socket));
        // A cancel from here on finds the socket; one before is found here.
        let waited = self.cx.check().map_err(io::Error::other).and_then(|()| wait());
        *self.waiting_on.lock() = None;
        match self.cx.check() {
            Err(ended) if waited.is_err() || self.cx.is_cancelled() => Err(io::Error::other(ended)),
            _ => waited,
        }
    }

    /// `limit`, or what is left until the pull's deadline if that is less.
    pub(super) fn within(&self, limit: Option<Duration>) -> Option<Duration> {
        match (limit, self.cx.remaining()) {
            (Some(limit), Some(left)) => Some(limit.min(left)),
            (limit, left) => limit.or(left),
        }
    }

    fn interrupt(&self) {
        let socket = self.waiting_on.lock();
        if let Some(socket) = &*socket {
            // An error means that the socket is closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}
