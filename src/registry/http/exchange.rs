//! One request and its reply, as the sockets see it.
//!
//! A pooled connection serves one pull after another and passes no connector again, so a socket cannot
//! know which pull it works for. A blocking call stays on its thread, however: [`HttpExchange::during`] notes
//! the exchange in a thread-local variable, and the socket looks it up at each read and write. A cancel
//! shuts down the sockets that its own pull waits on, and no others.

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

/// The longest head of a reply, 1xx replies included, and the longest run of chunk sizes and trailers
/// without a byte of the body, bytes.
pub(super) const MAX_HEAD: usize = 64 * 1024;

thread_local! {
    static CURRENT: RefCell<Option<Arc<HttpExchange>>> = const { RefCell::new(None) };
}

/// One request of one pull, and its reply.
pub(super) struct HttpExchange {
    cx: PullContext,
    /// Which addresses the request may reach.
    pub(super) addresses: AddressRule,
    pub(super) pace: Pace,
    /// The sockets that the thread waits on; only while it does.
    waiting_on: Mutex<Vec<Arc<TcpStream>>>,
    progress: Mutex<ExchangeProgress>,
}

/// How far an exchange has come.
#[derive(Clone, Copy, Default)]
pub(super) struct ExchangeProgress {
    /// A connection serves the exchange.
    pub(super) is_connected: bool,
    /// That connection served another exchange before.
    pub(super) is_reused: bool,
    /// Only a new connection will do.
    pub(super) wants_new: bool,
    /// Bytes of the request that were written to the socket.
    pub(super) sent: u64,
    /// Bytes of the reply that were read from the socket.
    pub(super) received: u64,
    /// The address at the other end; unknown behind a proxy.
    pub(super) peer: Option<IpAddr>,
    /// Bytes that came since the reply's last byte of use: of its head, of chunk sizes, of trailers.
    framing: usize,
    /// Since when such a part is being received.
    framing_since: Option<Instant>,
    /// The request is on its way, or the head of its reply.
    is_in_head: bool,
    /// When the exchange ends, apart from its pull.
    ends_at: Option<Instant>,
}

impl HttpExchange {
    /// Begins an exchange for the pull of `cx`. The hook interrupts it when the pull is cancelled, and is
    /// kept as long as the exchange.
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

    /// Returns the exchange that this thread works on.
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
        // A later cancel finds the sockets; an earlier one is found here.
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

    /// Ends the exchange after `time`, if it has not ended before.
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

    /// Tells whether the exchange may have failed only because the server had closed an idle connection,
    /// so that repeating it changes nothing: no byte of a reply came, and if the request is not
    /// `repeatable`, none of it was sent either.
    pub(super) fn failed_on_idle_connection(&self, repeatable: bool) -> bool {
        let progress = self.progress.lock();
        progress.is_reused && progress.received == 0 && (repeatable || progress.sent == 0)
    }

    /// Begins anew. Idle connections are refused until a new one was made.
    pub(super) fn restart(&self) {
        *self.progress.lock() =
            ExchangeProgress { wants_new: true, is_in_head: true, ..ExchangeProgress::default() };
    }

    pub(super) fn note_sent(&self, bytes: usize) {
        self.progress.lock().sent += bytes as u64;
    }

    /// Notes bytes that were read from the connection, and not yet what they are.
    pub(super) fn note_received(&self, bytes: usize) {
        let mut progress = self.progress.lock();
        progress.received += bytes as u64;
        progress.framing = progress.framing.saturating_add(bytes);
    }

    /// Notes that the body is read on: its framing may take its time, and its length, anew.
    pub(super) fn begin_read_of_body(&self) {
        let mut progress = self.progress.lock();
        progress.is_in_head = false;
        progress.framing = 0;
        progress.framing_since = Some(Instant::now());
    }

    /// Returns how long the next read may take. A head waits for its first byte as long as the reply may
    /// take (`None` here); whatever has begun to come may be silent for `silence`, and must be complete
    /// `whole` after its first byte.
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
            let message = format!("the reply came too slowly: a part of it was not complete after {whole:?}");
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
