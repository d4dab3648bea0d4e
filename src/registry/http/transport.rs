//! Implements ureq's transport. Only this file uses `ureq::unversioned`, which its semver does not cover. ureq speaks
//! HTTP/1.1 and keeps idle connections; names, sockets, proxies and TLS belong to this crate.
//!
//! It relies on the following; the test at the end fails if ureq changes it.
//! - The pool calls `is_open` before it hands out an idle connection, and when it takes one back; it does not call a
//!   connector for an idle connection. It keys connections by scheme and authority.
//! - A request's line and headers are written to `output` and passed to `transmit_output` from the first
//!   byte on, before anything is read.
//! - Only `await_input` reads a reply, on the thread that called `Agent::run` or reads the body.
//! - An `io::Error` that wraps an error of this crate comes back as `ureq::Error::Io`.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

use super::buffers::ConnectionBuffers;
use super::connect::{self, ConnectionRoute, Forwarding, HttpConnection};
use super::error;
use super::exchange::HttpExchange;
use crate::error::{Error, ErrorKind};

/// Returns an agent whose connections `connector` makes.
pub(super) fn agent(config: Config, connector: connect::Connector, limits: ReadLimits) -> ureq::Agent {
    ureq::Agent::with_parts(config, TransportConnector { connector: Arc::new(connector), limits }, NoResolver)
}

/// The limits of a reply that has begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadLimits {
    /// Between one byte and the next.
    pub(super) silence: Duration,
    /// For a head, a chunk's size or the trailers, from the first byte to the last.
    pub(super) whole: Duration,
}

/// The connector resolves names, and so only for new connections.
#[derive(Debug)]
struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        Ok(self.empty())
    }
}

/// Gives ureq the connections that this crate makes.
struct TransportConnector {
    connector: Arc<connect::Connector>,
    limits: ReadLimits,
}

impl Connector for TransportConnector {
    type Out = HttpTransport;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<HttpTransport>, ureq::Error> {
        let connection = self.connector.connect(details.uri).map_err(io::Error::other)?;
        Ok(Some(HttpTransport {
            connection,
            limits: self.limits,
            buffers: ConnectionBuffers::new(),
            has_served: false,
        }))
    }
}

impl fmt::Debug for TransportConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TransportConnector")
    }
}

/// A connection for ureq. It serves the current exchange of the thread that uses it.
struct HttpTransport {
    connection: HttpConnection,
    limits: ReadLimits,
    buffers: ConnectionBuffers,
    /// Whether it has served an exchange.
    has_served: bool,
}

impl HttpTransport {
    /// Begins an exchange at the first part of its request. Returns whether this is the first part.
    ///
    /// # Errors
    /// `Protocol` if the exchange must not use a connection to this address.
    fn begin(&mut self, exchange: &HttpExchange) -> Result<bool, Error> {
        if exchange.progress().is_connected {
            return Ok(false);
        }
        self.connection.route.check(exchange.addresses)?;
        exchange.note_connection(self.has_served, self.connection.route.peer());
        self.has_served = true;
        Ok(true)
    }
}

impl Transport for HttpTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let is_first = match HttpExchange::current() {
            Some(exchange) => self.begin(&exchange).map_err(io::Error::other)?,
            None => false,
        };
        let allowed = timeout.not_zero().map(|allowed| *allowed);
        let silence =
            Some(self.limits.silence).filter(|silence| allowed.is_none_or(|allowed| *silence < allowed));
        self.connection.stream.set_limit(silence.or(allowed));
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        let forwarded = match &self.connection.route {
            ConnectionRoute::Forwarded(forwarding) if is_first => forwarded(output, forwarding),
            _ => None,
        };
        let output = forwarded.as_deref().unwrap_or(output);
        self.connection.stream.write_all(output).map_err(|error| match error::is_timeout(&error) {
            true if silence.is_some() => io::Error::other(silent()).into(),
            true => ureq::Error::Timeout(timeout.reason),
            false => error.into(),
        })
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let ReadLimits { silence, whole } = self.limits;
        let exchange = HttpExchange::current();
        let limit = match &exchange {
            Some(exchange) => exchange
                .limit_of_read(self.buffers.input().is_empty(), silence, whole)
                .map_err(io::Error::other)?,
            None => Some(silence),
        };
        let allowed = timeout.not_zero().map(|allowed| *allowed);
        let is_silence = match (limit, allowed) {
            (Some(limit), Some(allowed)) => limit < allowed,
            (limit, _) => limit.is_some(),
        };
        self.connection.stream.set_limit(if is_silence { limit } else { allowed });
        let free = self.buffers.free_input();
        let largest = exchange.as_ref().map_or(usize::MAX, |exchange| exchange.pace.largest_read());
        let room = free.len().min(largest);
        let read = self.connection.stream.read(free.get_mut(..room).unwrap_or_default());
        let read = read.map_err(|error| match error::is_timeout(&error) {
            true if is_silence => io::Error::other(silent()).into(),
            true => ureq::Error::Timeout(timeout.reason),
            false => error.into(),
        })?;
        self.buffers.note_filled(read);
        if let Some(exchange) = &exchange {
            let is_start = exchange.progress().received == 0;
            if is_start && !self.connection.is_secure && is_tls_record(self.buffers.input()) {
                return Err(io::Error::other(speaks_tls()).into());
            }
            exchange.note_received(read);
            exchange.pace.charge(read);
        }
        Ok(read > 0)
    }

    fn is_open(&mut self) -> bool {
        let is_wanted = HttpExchange::current().is_none_or(|exchange| !exchange.progress().wants_new);
        is_wanted && self.connection.stream.is_idle()
    }

    fn is_tls(&self) -> bool {
        self.connection.is_secure
    }
}

impl Buffers for ConnectionBuffers {
    fn output(&mut self) -> &mut [u8] {
        self.output()
    }

    fn input(&self) -> &[u8] {
        self.input()
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        self.free_input()
    }

    fn input_appended(&mut self, amount: usize) {
        self.note_filled(amount);
    }

    fn input_consume(&mut self, amount: usize) {
        self.consume(amount);
    }

    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        self.scratch_and_output()
    }

    fn can_use_input(&self) -> bool {
        self.has_new_input()
    }
}

impl fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTransport").field("stream", &self.connection.stream).finish()
    }
}

/// Returns the first part of a request in the form for a forwarding proxy, by
/// [RFC 9112, section 3.2.2](https://www.rfc-editor.org/rfc/rfc9112#section-3.2.2).
fn forwarded(part: &[u8], forwarding: &Forwarding) -> Option<Vec<u8>> {
    let method = part.iter().position(|&byte| byte == b' ')? + 1;
    let line = part.windows(2).position(|bytes| bytes == b"\r\n")? + 2;
    let mut request = Vec::with_capacity(part.len() + 256);
    request.extend_from_slice(part.get(..method)?);
    request.extend_from_slice(forwarding.origin.as_bytes());
    request.extend_from_slice(part.get(method..line)?);
    if let Some(authorization) = &forwarding.authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(authorization.expose().as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(part.get(line..)?);
    Some(request)
}

fn silent() -> Error {
    Error::new(ErrorKind::Timeout, "the server sent nothing for too long")
}

/// Returns whether a reply begins like a record of TLS: an alert or a handshake message.
fn is_tls_record(reply: &[u8]) -> bool {
    matches!(reply, [0x15 | 0x16, 3, ..])
}

fn speaks_tls() -> Error {
    let message = "the server speaks TLS, and was asked by plain HTTP; use HTTPS";
    Error::new(ErrorKind::Tls, message).with_retryable(false)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::{SocketAddr, TcpListener};
    use std::thread::{self, JoinHandle};

    use super::*;
    use crate::context::PullContext;
    use crate::registry::address::{AddressClass, AddressRule};
    use crate::registry::http::{Http, HttpLimits, HttpRequest, MinRate, Proxies, SystemResolver, Trust};
    use crate::sync::RateLimit;

    fn http() -> Http {
        let limits = HttpLimits {
            connect: Duration::from_secs(20),
            silence: Duration::from_secs(20),
            min_rate: MinRate { bytes: 1, time: Duration::from_secs(20) },
            idle_connections: 4,
        };
        let trust = Trust::default();
        Http::new(
            &limits,
            &trust,
            &trust,
            &Proxies::default(),
            Arc::new(SystemResolver),
            Arc::new(RateLimit::new(0)),
            Arc::default(),
        )
        .unwrap()
    }

    /// Answers the given number of requests on each connection, and closes it. Returns the first lines of the requests,
    /// by connection.
    fn server(connections: &'static [usize]) -> (SocketAddr, JoinHandle<Vec<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serve = move || {
            let of_one = |requests: &usize| {
                let (socket, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(&socket).lines().map_while(Result::ok);
                let one = |_| {
                    let first = lines.next()?;
                    lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
                    (&socket).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
                    Some(first)
                };
                (0..*requests).map_while(one).collect()
            };
            connections.iter().map(of_one).collect()
        };
        (address, thread::spawn(serve))
    }

    fn get(http: &Http, address: SocketAddr, path: &str, rule: AddressRule) -> Result<Vec<u8>, Error> {
        let url = format!("http://{address}{path}").parse().unwrap();
        let within = Duration::from_secs(20);
        let request = HttpRequest { url: &url, addresses: rule, headers: &[], within };
        http.get(&PullContext::new(), &request)?.read_all(100)
    }

    #[test]
    fn ureq_does_what_this_file_relies_on() {
        // The second connection serves the request after the first one was closed.
        let (address, served) = server(&[2, 1]);
        let http = http();
        for path in ["/one", "/two", "/three"] {
            assert_eq!(get(&http, address, path, AddressRule::Any).unwrap(), b"ok", "{path}");
        }
        let expected = [vec!["GET /one HTTP/1.1", "GET /two HTTP/1.1"], vec!["GET /three HTTP/1.1"]];
        assert_eq!(served.join().unwrap(), expected);
    }

    #[test]
    fn a_forbidden_address_is_not_reached_by_a_new_connection_nor_by_one_that_is_there() {
        let (address, served) = server(&[1]);
        let http = http();
        let rule = AddressRule::NamedBy(AddressClass::Public);
        for is_connected in [false, true] {
            let error = get(&http, address, "/forbidden", rule).unwrap_err();
            assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Protocol, false), "{error}");
            if !is_connected {
                get(&http, address, "/allowed", AddressRule::Any).unwrap();
            }
        }
        assert_eq!(served.join().unwrap(), [vec!["GET /allowed HTTP/1.1"]]);
    }
}
