//! One request and its reply, for the sockets.
//!
//! A pooled connection serves one pull after another, and a socket does not know which pull it serves. A blocking
//! call stays on its thread: [`HttpExchange::during`] sets the exchange in a thread-local variable, and the socket
//! reads it at each read and write. A cancel shuts down the sockets that its own pull waits on, and no others.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::bandwidth::Pace;
use crate::context::{CancelHook, PullContext};
use crate::error::{Error, ErrorKind};
use crate::registry::address::AddressRule;
use crate::sync::RateLimit;

/// Maximum size of the head of a reply, 1xx replies included, and of a run of chunk sizes and trailers without a
/// byte of the body; bytes.
pub(super) const MAX_HEAD: usize = 64 * 1024;

thread_local! {
    static CURRENT: RefCell<Option<Arc<HttpExchange>>> = const { RefCell::new(None) };
}

/// One request of one pull, and its reply.
pub(super) struct HttpExchange {
    cx: PullContext,
    /// The addresses that the request may reach.
    pub(super) addresses: AddressRule,
    pub(super) pace: Pace,
    /// The sockets that the thread is waiting on.
    waiting_on: Mutex<Vec<Arc<TcpStream>>>,
    progress: Mutex<ExchangeProgress>,
}

/// The progress of an exchange.
#[derive(Clone, Copy, Default)]
pub(super) struct ExchangeProgress {
    /// A connection serves the exchange.
    pub(super) is_connected: bool,
    /// That connection served another exchange before.
    pub(super) is_reused: bool,
    /// Idle connections are not accepted.
    pub(super) wants_new: bool,
    /// Bytes of the request that were written to the socket.
    pub(super) sent: u64,
    /// Bytes of the reply that were read from the socket.
    pub(super) received: u64,
    /// The address at the other end; unknown behind a proxy.
    pub(super) peer: Option<IpAddr>,
    /// Bytes received since the last byte of the body: of the head, of chunk sizes, of trailers.
    framing: usize,
    /// When the first of these bytes was received.
    framing_since: Option<Instant>,
    /// The request is being sent, or the head of its reply received.
    is_in_head: bool,
    /// A deadline of the exchange, besides that of its pull.
    ends_at: Option<Instant>,
}

impl HttpExchange {
    /// Begins an exchange for the pull of `cx`. The hook interrupts it when the pull is cancelled; it must live as
    /// long as the exchange.
    ///
    /// # Errors
    /// `Cancelled` or `Timeout` if the pull has ended.
    pub(super) fn begin(
        cx: &PullContext,
        addresses: AddressRule,
        bandwidth: &Arc<RateLimit>,
    ) -> Result<(Arc<Self>, Option<CancelHook>), Error> {
        cx.check()?;
        let exchange = Arc::new(HttpExchange {
            cx: cx.clone(),
            addresses,
            pace: Pace::new(Arc::clone(bandwidth)),
            waiting_on: Mutex::default(),
            progress: Mutex::new(ExchangeProgress { is_in_head: true, ..ExchangeProgress::default() }),
        });
        let hook = cx.cancel_token().map(|token| {
            let exchange = Arc::downgrade(&exchange);
            token.on_cancel(move || {
                if let Some(exchange) = exchange.upgrade() {
                    exchange.interrupt();
                }
            })
        });
        Ok((exchange, hook))
    }

    /// Returns the current exchange of this thread.
    pub(super) fn current() -> Option<Arc<Self>> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Runs `work` with this as the thread's current exchange.
    pub(super) fn during<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        struct Restore(Option<Arc<HttpExchange>>);
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

    pub(super) fn progress(&self) -> ExchangeProgress {
        *self.progress.lock()
    }

    /// Runs `wait`, which waits on `socket`. A cancel makes it fail.
    pub(super) fn wait_on<T>(
        &self,
        socket: &Arc<TcpStream>,
        wait: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        self.wait_on_all(std::slice::from_ref(socket), wait)
    }

    /// Runs `wait`, which waits on any of `sockets`. A cancel makes it fail.
    pub(super) fn wait_on_all<T>(
        &self,
        sockets: &[Arc<TcpStream>],
        wait: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        self.waiting_on.lock().extend_from_slice(sockets);
        // A later cancel finds the sockets; an earlier one is detected here.
        let waited = self.cx.check().map_err(io::Error::other).and_then(|()| wait());
        self.waiting_on.lock().clear();
        match self.cx.check() {
            Err(ended) if waited.is_err() || self.cx.is_cancelled() => Err(io::Error::other(ended)),
            _ => waited,
        }
    }

    /// Returns `limit`, or the time until the exchange ends or the pull's deadline comes, if that is less.
    pub(super) fn within(&self, limit: Option<Duration>) -> Option<Duration> {
        let own = self.progress.lock().ends_at.map(|end| end.saturating_duration_since(Instant::now()));
        [limit, own, self.cx.remaining()].into_iter().flatten().min()
    }

    /// Limits the rest of the exchange to `time`.
    pub(super) fn end_within(&self, time: Duration) {
        self.progress.lock().ends_at = Instant::now().checked_add(time);
    }

    /// Notes that a connection begins to serve the exchange.
    pub(super) fn note_connection(&self, is_reused: bool, peer: Option<IpAddr>) {
        let mut progress = self.progress.lock();
        *progress = ExchangeProgress {
            is_connected: true,
            is_reused,
            peer,
            is_in_head: true,
            ..ExchangeProgress::default()
        };
    }

    /// Returns whether the exchange may have failed because the server had closed an idle connection, so that it can
    /// be repeated: no byte of a reply was received and, unless the request is `repeatable`, none of it was sent.
    pub(super) fn failed_on_idle_connection(&self, repeatable: bool) -> bool {
        let progress = self.progress.lock();
        progress.is_reused && progress.received == 0 && (repeatable || progress.sent == 0)
    }

    /// Restarts the exchange. It accepts only a new connection.
    pub(super) fn restart(&self) {
        *self.progress.lock() =
            ExchangeProgress { wants_new: true, is_in_head: true, ..ExchangeProgress::default() };
    }

    pub(super) fn note_sent(&self, bytes: usize) {
        self.progress.lock().sent += bytes as u64;
    }

    /// Notes bytes that were read from the connection; they count as framing until the body is read on.
    pub(super) fn note_received(&self, bytes: usize) {
        let mut progress = self.progress.lock();
        progress.received += bytes as u64;
        progress.framing = progress.framing.saturating_add(bytes);
    }

    /// Notes that the body is read on, which restarts the limits of framing.
    pub(super) fn begin_read_of_body(&self) {
        let mut progress = self.progress.lock();
        progress.is_in_head = false;
        progress.framing = 0;
        progress.framing_since = Some(Instant::now());
    }

    /// Returns the limit of the next read. The first byte of a head has the limit of the reply (`None` here). A part
    /// that has begun may be silent for `silence`, and must be complete `whole` after its first byte.
    ///
    /// # Errors
    /// `Protocol` if the head or the framing is too long, `Timeout` if it took too long.
    pub(super) fn limit_of_read(
        &self,
        is_buffer_empty: bool,
        silence: Duration,
        whole: Duration,
    ) -> Result<Option<Duration>, Error> {
        let mut progress = self.progress.lock();
        if progress.framing > MAX_HEAD {
            let what = if progress.is_in_head { "head" } else { "framing" };
            let message = format!("the {what} of the reply is longer than {MAX_HEAD} bytes");
            return Err(Error::new(ErrorKind::Protocol, message).with_retryable(false));
        }
        if progress.is_in_head && is_buffer_empty {
            progress.framing_since = None;
            return Ok(None);
        }
        let since = *progress.framing_since.get_or_insert_with(Instant::now);
        let left = whole.saturating_sub(since.elapsed());
        if left.is_zero() {
            let message = format!("the reply is too slow: a part of it was not complete after {whole:?}");
            return Err(Error::new(ErrorKind::Timeout, message));
        }
        Ok(Some(silence.min(left)))
    }

    fn interrupt(&self) {
        for socket in &*self.waiting_on.lock() {
            // An error means that the socket is closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}
