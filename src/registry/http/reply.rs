//! A reply: its head, and a body that is not read yet.

use std::fmt;
use std::io::Read;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::HeaderMap;

use super::error;
use super::exchange::HttpExchange;
use super::min_rate::{RateMeter, SharedRate};
use super::proxy;
use crate::context::CancelHook;
use crate::error::{Error, ErrorKind};
use crate::registry::client_metrics::HostCounters;

/// The reply of a server.
pub(crate) struct HttpReply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) peer: Option<IpAddr>,
    /// The forwarding proxy that passed the reply on.
    pub(super) proxy: Option<String>,
    pub(super) body: HttpBody,
}

impl HttpReply {
    /// Returns the first `Content-Encoding` that would change the body, escaped and cut; none was asked for.
    pub(crate) fn encoding(&self) -> Option<String> {
        let encodings = self.headers("content-encoding").flat_map(|value| value.split(',')).map(str::trim);
        let encoding = encodings.into_iter().find(|encoding| !is_label(encoding))?;
        Some(encoding.escape_debug().take(40).collect())
    }

    /// Returns the error of a forwarding proxy, if the proxy has written the reply and not the host behind it: only a
    /// proxy answers 407, and Squid and [RFC 9209](https://www.rfc-editor.org/rfc/rfc9209) mark other errors.
    pub(super) fn refusal_of_proxy(&self) -> Option<Error> {
        let reason = self.header("x-squid-error").or_else(|| self.header("proxy-status"));
        let is_own = self.status == 407 || (reason.is_some() && matches!(self.status, 403 | 500..));
        is_own.then(|| proxy::refusal(self.status, reason))
    }

    /// Returns the forwarding proxy that may have written a refusal itself. A registry's own answer is JSON, has
    /// a challenge, or names the version of its API.
    pub(crate) fn may_be_of_proxy(&self) -> Option<String> {
        let is_json = self.header("content-type").is_some_and(|media_type| media_type.contains("json"));
        let is_registry = ["docker-distribution-api-version", "www-authenticate"];
        let is_registry = is_json || is_registry.iter().any(|name| self.header_bytes(name).is_some());
        self.proxy.clone().filter(|_| !is_registry && matches!(self.status, 403 | 500..))
    }

    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// Returns a header's value, unless it is absent or not text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns a header's value as bytes.
    pub(crate) fn header_bytes(&self, name: &str) -> Option<&[u8]> {
        self.headers.get(name).map(|value| value.as_bytes())
    }

    /// Returns all values of a header that may occur more than once.
    pub(crate) fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.get_all(name).iter().filter_map(|value| value.to_str().ok())
    }

    /// Returns the address that the reply came from; unknown behind a proxy.
    pub(crate) fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    pub(crate) fn into_body(self) -> HttpBody {
        self.body
    }

    /// Measures the body's rate together with that of all bodies in `rate`.
    pub(crate) fn share_rate(&mut self, rate: &Arc<SharedRate>) {
        self.body.meter.join(rate);
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// As [`HttpBody::read_to_end`].
    pub(crate) fn read_all(mut self, limit: usize) -> Result<Vec<u8>, Error> {
        self.body.read_to_end(limit)
    }

    /// Discards the body. Reads a short one that arrives at once, so that its connection can be used again; the
    /// connection's next use shows a failure.
    pub(crate) fn discard(mut self) {
        const SHORT: usize = 16 * 1024;
        const AT_ONCE: Duration = Duration::from_millis(500);
        let length = self.header("content-length").and_then(|length| length.parse::<usize>().ok());
        if length.is_some_and(|length| length <= SHORT) {
            self.body.exchange.end_within(AT_ONCE);
            self.body.is_paced = false;
            let _ = self.body.read_to_end(SHORT);
        }
    }
}

/// Returns whether a `Content-Encoding` leaves the body as it is. Storage keeps some that its uploads had; the
/// digest decides.
fn is_label(encoding: &str) -> bool {
    ["", "identity", "none", "aws-chunked", "utf-8", "utf8"]
        .iter()
        .any(|label| encoding.eq_ignore_ascii_case(label))
}

impl fmt::Debug for HttpReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("status", &self.status).finish_non_exhaustive()
    }
}

/// A body that is being read. Dropping it before its end closes the connection.
pub(crate) struct HttpBody {
    pub(super) reader: ureq::BodyReader<'static>,
    pub(super) meter: RateMeter,
    /// Whether reads wait for the bandwidth limit.
    pub(super) is_paced: bool,
    /// Those of the host that was asked.
    pub(super) counters: Arc<HostCounters>,
    pub(super) exchange: Arc<HttpExchange>,
    pub(super) _hook: Option<CancelHook>,
}

impl HttpBody {
    /// Reads the next bytes; none at the end.
    ///
    /// # Errors
    /// `ConnectionFailed` if it ends too soon, `Timeout`, `Protocol`, `Cancelled`.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        if self.is_paced {
            self.exchange.pace.wait(self.exchange.cx(), &self.meter)?;
        }
        let reader = &mut self.reader;
        self.exchange.begin_read_of_body();
        let read = self.exchange.during(|| reader.read(buffer));
        let read = read.map_err(error::of_body)?;
        if read > 0 {
            self.counters.count_body_bytes(read);
            self.meter.count(read)?;
        }
        Ok(read)
    }

    /// Returns how long the reads have waited for the bandwidth limit: time that the host is not to blame for.
    pub(crate) fn waited(&self) -> Duration {
        self.exchange.pace.waited()
    }

    /// Reads the rest.
    ///
    /// # Errors
    /// `Protocol` if it is longer than `limit` bytes; else as [`read`](Self::read).
    pub(crate) fn read_to_end(&mut self, limit: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let mut chunk = [0; 8 * 1024];
        loop {
            let read = self.read(&mut chunk)?;
            let part = chunk.get(..read).unwrap_or_default();
            if part.is_empty() {
                return Ok(bytes);
            }
            if bytes.len() + part.len() > limit {
                return Err(Error::new(
                    ErrorKind::Protocol,
                    format!("the answer is longer than {limit} bytes"),
                )
                .with_retryable(false));
            }
            bytes.extend_from_slice(part);
        }
    }
}
