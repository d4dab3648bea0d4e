//! Makes the connection for a URL: directly or through a proxy, with TLS for `https`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use ureq::http::Uri;

use super::dial::dial;
use super::dns::{self, Resolver};
use super::exchange::HttpExchange;
use super::proxy::{Proxies, Proxy};
use super::stream::ByteStream;
use super::tcp::TcpSocket;
use super::tls::TlsStream;
use crate::credentials::Secret;
use crate::error::{Error, ErrorKind};
use crate::registry::address::{AddressRule, written_address};

/// Makes connections with the same settings.
pub(super) struct Connector {
    pub(super) resolver: Arc<dyn Resolver>,
    pub(super) proxies: Proxies,
    /// For the hosts that URLs name.
    pub(super) tls: Arc<ClientConfig>,
    /// For proxies, which a host's own settings do not cover.
    pub(super) proxy_tls: Arc<ClientConfig>,
    /// Whether `tls` verifies certificates.
    pub(super) is_verifying: bool,
    /// The limit of a name lookup, and again of the connection.
    pub(super) timeout: Duration,
}

/// A connection, and how it was made.
pub(super) struct HttpConnection {
    pub(super) stream: Box<dyn ByteStream>,
    pub(super) route: ConnectionRoute,
    /// The URL is `https`.
    pub(super) is_secure: bool,
}

/// The route of a connection to its host.
pub(super) enum ConnectionRoute {
    /// Without a proxy.
    Direct {
        peer: IpAddr,
        /// The URL names an address.
        is_written: bool,
        /// The server has proved its name.
        is_verified: bool,
    },
    /// A tunnel through a proxy.
    Tunnel,
    /// Through a proxy that is sent the whole URL.
    Forwarded(Forwarding),
}

/// The additions to a request for a forwarding proxy.
pub(super) struct Forwarding {
    /// Stands before the path in the request line: `http://HOST[:PORT]`.
    pub(super) origin: String,
    /// The value of `Proxy-Authorization`.
    pub(super) authorization: Option<Secret>,
}

impl Connector {
    /// Connects to the host of `url`.
    ///
    /// # Errors
    /// `HostNotFound`, `ConnectionFailed`, `Tls`, `Timeout`, `Cancelled`; `Protocol` for an address that the
    /// current exchange must not reach. A proxy's failure names the proxy as its host.
    pub(super) fn connect(&self, url: &Uri) -> Result<HttpConnection, Error> {
        let host = url.host().unwrap_or_default();
        let is_secure = url.scheme_str() == Some("https");
        let port = port_of(url);
        match self.proxies.for_url(is_secure, host, port) {
            None => self.connect_directly(host, port, is_secure),
            Some(proxy) if is_secure => {
                let end = Deadline::in_(self.timeout);
                let stream = self.tunnel(proxy, host, port, end).map_err(|error| proxy.named(error))?;
                let stream = TlsStream::connect(&self.tls, host, stream, end.left())?;
                Ok(HttpConnection { stream: Box::new(stream), route: ConnectionRoute::Tunnel, is_secure })
            }
            Some(proxy) => {
                let end = Deadline::in_(self.timeout);
                let stream = self.connect_to_proxy(proxy, end).map_err(|error| proxy.named(error))?;
                let origin = format!("http://{}", url.authority().map_or("", |authority| authority.as_str()));
                let forwarding = Forwarding { origin, authorization: proxy.authorization().cloned() };
                Ok(HttpConnection { stream, route: ConnectionRoute::Forwarded(forwarding), is_secure })
            }
        }
    }

    fn connect_directly(&self, host: &str, port: u16, is_secure: bool) -> Result<HttpConnection, Error> {
        let rule = HttpExchange::current().map_or(AddressRule::Any, |exchange| exchange.addresses);
        let is_verified = is_secure && self.is_verifying;
        let addresses = dns::addresses(&self.resolver, host, port, self.timeout, rule, is_verified)?;
        let end = Deadline::in_(self.timeout);
        let (socket, address) = dial(&addresses, self.timeout)?;
        let mut stream: Box<dyn ByteStream> = Box::new(TcpSocket::new(socket));
        if is_secure {
            stream = Box::new(TlsStream::connect(&self.tls, host, stream, end.left())?);
        }
        let is_written = written_address(host).is_some();
        let route = ConnectionRoute::Direct { peer: address.ip(), is_written, is_verified };
        Ok(HttpConnection { stream, route, is_secure })
    }

    fn connect_to_proxy(&self, proxy: &Proxy, end: Deadline) -> Result<Box<dyn ByteStream>, Error> {
        let (host, port) = proxy.host_and_port();
        let any = AddressRule::Any;
        let addresses = dns::addresses(&self.resolver, host, port, self.timeout, any, false)?;
        let (socket, _) = dial(&addresses, end.left())?;
        let stream = Box::new(TcpSocket::new(socket));
        if proxy.is_secure() {
            return Ok(Box::new(TlsStream::connect(&self.proxy_tls, host, stream, end.left())?));
        }
        Ok(stream)
    }

    fn tunnel(
        &self,
        proxy: &Proxy,
        host: &str,
        port: u16,
        end: Deadline,
    ) -> Result<Box<dyn ByteStream>, Error> {
        let mut stream = self.connect_to_proxy(proxy, end)?;
        stream.set_limit(Some(end.left()));
        proxy.open_tunnel(&mut stream, host, port)?;
        Ok(stream)
    }
}

/// Returns the port of a URL, by default that of its scheme.
pub(super) fn port_of(url: &Uri) -> u16 {
    url.port_u16().unwrap_or(if url.scheme_str() == Some("http") { 80 } else { 443 })
}

/// The end of the time for a connection.
#[derive(Clone, Copy)]
struct Deadline(Instant, Duration);

impl Deadline {
    fn in_(time: Duration) -> Self {
        Deadline(Instant::now(), time)
    }

    fn left(self) -> Duration {
        self.1.saturating_sub(self.0.elapsed())
    }
}

impl ConnectionRoute {
    /// Returns the server's address; unknown behind a proxy.
    pub(super) fn peer(&self) -> Option<IpAddr> {
        match self {
            ConnectionRoute::Direct { peer, .. } => Some(*peer),
            ConnectionRoute::Tunnel | ConnectionRoute::Forwarded(_) => None,
        }
    }

    /// Checks a connection, which may have been made for another exchange, against a rule.
    ///
    /// # Errors
    /// `Protocol`.
    pub(super) fn check(&self, rule: AddressRule) -> Result<(), Error> {
        let ConnectionRoute::Direct { peer, is_written, is_verified } = self else { return Ok(()) };
        rule.check(*peer, *is_written, *is_verified)
            .map_err(|refusal| Error::new(ErrorKind::Protocol, refusal.to_string()).with_retryable(false))
    }
}
