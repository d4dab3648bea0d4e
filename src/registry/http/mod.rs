//! HTTP, and the only place that knows ureq: one request, one reply, every wait cut short by the
//! context of the pull it is for.

mod lookup;
mod min_rate;
mod room;
mod tie;
mod tls;
mod wire;

use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use ureq::config::Config;
use ureq::http::{HeaderMap, Request};
use ureq::unversioned::transport::{ConnectProxyConnector, Connector};

pub use lookup::{Resolver, SystemResolver};
// What URLs and headers are made of; for those who only look at them.
pub(crate) use min_rate::MinRate;
pub(super) use ureq::http::{HeaderName, HeaderValue, Uri, uri};

use self::lookup::Lookup;
use self::min_rate::RateMeter;
use self::tie::Tie;
use self::tls::TlsWire;
use self::wire::TcpWire;
use crate::context::{CancelHook, PullContext};
use crate::error::{Error, ErrorKind};

/// The most that is read from a connection at a time, bytes; measured: 64 KiB costs a third more on a
/// large layer, more than this gains nothing.
const READ_SIZE: usize = 128 * 1024;

/// The most that the head of a reply may take, bytes.
const MAX_HEAD: usize = 64 * 1024;

/// How long things may take.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Limits {
    /// Looking a name up; and then connecting, TLS included.
    pub(crate) connect: Duration,
    /// From the request to the end of the reply's head.
    pub(crate) head: Duration,
    /// Between one byte and the next.
    pub(crate) silence: Duration,
    /// A body that comes slower is given up.
    pub(crate) min_rate: MinRate,
    /// Connections kept open for a host while nobody uses them.
    pub(crate) idle_connections: usize,
}

/// What a TLS connection is made with; PEM files, read already.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Trust {
    /// Certificates of authorities, beside the ones this program trusts anyway.
    pub(crate) authorities: Vec<Vec<u8>>,
    /// Certificate and key that this side shows.
    pub(crate) client: Option<(Vec<u8>, Vec<u8>)>,
    /// Believes any certificate.
    pub(crate) skip_verify: bool,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trust(…)")
    }
}

/// Which proxy requests go through.
#[derive(Clone, Default, PartialEq)]
pub(crate) enum ProxyChoice {
    /// What `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say.
    #[default]
    Environment,
    None,
    Url(String),
}

impl fmt::Debug for ProxyChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProxyChoice::Environment => "Environment",
            ProxyChoice::None => "None",
            ProxyChoice::Url(_) => "Url(…)",
        })
    }
}

/// Connections that share their settings, and the pool that keeps them.
#[derive(Clone)]
pub(crate) struct Http {
    agent: ureq::Agent,
    min_rate: MinRate,
}

impl Http {
    /// # Errors
    /// `InvalidConfig` if a certificate, a key or the proxy cannot be read.
    pub(crate) fn new(
        limits: &Limits,
        trust: &Trust,
        proxy: &ProxyChoice,
        resolver: Arc<dyn Resolver>,
    ) -> Result<Self, Error> {
        let config = Config::builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("oci-puller/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .max_response_header_size(MAX_HEAD)
            .input_buffer_size(READ_SIZE)
            .max_idle_connections(limits.idle_connections.saturating_mul(8))
            .max_idle_connections_per_host(limits.idle_connections)
            .timeout_resolve(Some(limits.connect))
            .timeout_connect(Some(limits.connect))
            .timeout_recv_response(Some(limits.head))
            .timeout_per_read(Some(limits.silence))
            .timeout_per_write(Some(limits.silence))
            .proxy(proxy_of(proxy)?)
            .build();
        let connector =
            ().chain(ConnectProxyConnector::default()).chain(TcpWire).chain(TlsWire(tls::config(trust)?));
        let agent = ureq::Agent::with_parts(config, connector, Lookup::new(resolver));
        Ok(Http { agent, min_rate: limits.min_rate })
    }

    /// Asks for `url`; a reply of any status is one.
    ///
    /// # Errors
    /// `HostNotFound`, `ConnectionFailed`, `Tls`, `Timeout`, `Protocol`, `Cancelled`.
    pub(crate) fn get(&self, cx: &PullContext, url: &Uri, headers: &[(&str, &str)]) -> Result<Reply, Error> {
        self.ask(cx, with_headers(Request::get(url), headers).body(()))
    }

    /// Posts a form to `url`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(crate) fn post_form(&self, cx: &PullContext, url: &Uri, form: &str) -> Result<Reply, Error> {
        let headers = [("content-type", "application/x-www-form-urlencoded"), ("accept", "application/json")];
        self.ask(cx, with_headers(Request::post(url), &headers).body(form))
    }

    fn ask(
        &self,
        cx: &PullContext,
        request: Result<Request<impl ureq::AsSendBody>, ureq::http::Error>,
    ) -> Result<Reply, Error> {
        let (tie, hook) = Tie::to(cx)?;
        let reply = tie.during(|| self.agent.run(request.map_err(ureq::Error::from)?)).map_err(error_of)?;
        let (head, body) = reply.into_parts();
        let body =
            Body { reader: body.into_reader(), meter: RateMeter::new(self.min_rate), tie, _hook: hook };
        let reply = Reply { status: head.status.as_u16(), headers: head.headers, body };
        reply.refuse_encoding()?;
        Ok(reply)
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http")
    }
}

fn with_headers(
    request: ureq::http::request::Builder,
    headers: &[(&str, &str)],
) -> ureq::http::request::Builder {
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}

/// What a server answered: the head, and a body that is still to be read.
pub(crate) struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Body,
}

impl Reply {
    /// No encoding is asked for, and digests are of what is not encoded.
    fn refuse_encoding(&self) -> Result<(), Error> {
        let is_encoded = |encoding: &str| !encoding.eq_ignore_ascii_case("identity");
        if self.status < 300 && self.headers("content-encoding").any(is_encoded) {
            let message = "the answer is encoded, which was not asked for";
            return Err(Error::new(ErrorKind::Protocol, message).with_retryable(false));
        }
        Ok(())
    }

    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// The header's value, unless it is absent or not text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// All values of a header that may stand more than once.
    pub(crate) fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.get_all(name).iter().filter_map(|value| value.to_str().ok())
    }

    pub(crate) fn into_body(self) -> Body {
        self.body
    }

    /// The whole body.
    ///
    /// # Errors
    /// As [`Body::read_to_end`].
    pub(crate) fn read_all(mut self, limit: usize) -> Result<Vec<u8>, Error> {
        self.body.read_to_end(limit)
    }

    /// Passes over a body that nobody wants. A short one is read, so that its connection can be used
    /// again; that it failed is noticed by the next who use the connection.
    pub(crate) fn discard(self) {
        const SHORT: usize = 16 * 1024;
        let length = self.header("content-length").and_then(|length| length.parse::<usize>().ok());
        if length.is_some_and(|length| length <= SHORT) {
            let _ = self.read_all(SHORT);
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("status", &self.status).finish_non_exhaustive()
    }
}

/// A body that is being read. Dropped before its end it closes its connection.
pub(crate) struct Body {
    reader: ureq::BodyReader<'static>,
    meter: RateMeter,
    tie: Arc<Tie>,
    _hook: Option<CancelHook>,
}

impl Body {
    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// `ConnectionFailed` if it ends too soon, `Timeout`, `Protocol`, `Cancelled`.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let reader = &mut self.reader;
        let read = self.tie.during(|| reader.read(buffer)).map_err(|error| error_of(error.into()))?;
        if read > 0 {
            self.meter.count(read)?;
        }
        Ok(read)
    }

    /// All that is left.
    ///
    /// # Errors
    /// `Protocol` if it is longer than `limit` bytes, and what [`read`](Self::read) has.
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

fn proxy_of(choice: &ProxyChoice) -> Result<Option<ureq::Proxy>, Error> {
    match choice {
        ProxyChoice::Environment => Ok(ureq::Proxy::try_from_env()),
        ProxyChoice::None => Ok(None),
        // The URL may hold a password: it is not repeated.
        ProxyChoice::Url(url) => ureq::Proxy::new(url)
            .map(Some)
            .map_err(|_| Error::new(ErrorKind::InvalidConfig, "the proxy's URL cannot be read")),
    }
}

/// What ureq says, in our words; what our own wire said comes back as it was.
fn error_of(error: ureq::Error) -> Error {
    match error {
        ureq::Error::Io(error) => error_of_io(error),
        ureq::Error::Timeout(what) => Error::new(ErrorKind::Timeout, silence_while(what)),
        ureq::Error::HostNotFound => Error::new(ErrorKind::HostNotFound, "the name has no address"),
        ureq::Error::Tls(what) => Error::new(ErrorKind::Tls, what),
        ureq::Error::ConnectionFailed => Error::new(ErrorKind::ConnectionFailed, "no connection was made"),
        other => Error::new(ErrorKind::Protocol, other.to_string()),
    }
}

fn error_of_io(error: std::io::Error) -> Error {
    if let Some(ours) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        return ours.clone();
    }
    let kind = match error.kind() {
        std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => ErrorKind::Timeout,
        _ => ErrorKind::ConnectionFailed,
    };
    Error::new(kind, error.to_string()).with_source(error)
}

fn silence_while(what: ureq::Timeout) -> &'static str {
    match what {
        ureq::Timeout::Resolve => "the name was not looked up in time",
        ureq::Timeout::Connect => "no connection was made in time",
        ureq::Timeout::RecvResponse => "the server did not answer in time",
        ureq::Timeout::PerRead | ureq::Timeout::RecvBody => "the server fell silent",
        _ => "the server did not take the request in time",
    }
}
