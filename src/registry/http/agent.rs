//! Sends requests. Each has one reply, and each wait ends with the pull.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ureq::AsSendBody;
use ureq::config::Config;
use ureq::http::{self, Request, Uri};

use super::connect::{Connector, port_of};
use super::dns::Resolver;
use super::error;
use super::exchange::{HttpExchange, MAX_HEAD};
use super::min_rate::{MinRate, RateMeter};
use super::proxy::{Proxies, Proxy};
use super::reply::{HttpBody, HttpReply};
use super::tls::{self, Trust};
use super::transport::{self, ReadLimits};
use crate::context::PullContext;
use crate::error::Error;
use crate::registry::address::AddressRule;
use crate::registry::client_metrics::ClientCounters;
use crate::sync::RateLimit;

/// A limit of this length or more is no limit.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The limits of connections.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HttpLimits {
    /// For a name lookup, and again for the connection with TLS.
    pub(crate) connect: Duration,
    /// Between one byte and the next.
    pub(crate) silence: Duration,
    /// The minimum rate of bodies.
    pub(crate) min_rate: MinRate,
    /// Maximum number of idle connections to a host.
    pub(crate) idle_connections: usize,
}

/// A request.
#[derive(Clone, Copy)]
pub(crate) struct HttpRequest<'a> {
    pub(crate) url: &'a Uri,
    /// The addresses that the URL's host may have.
    pub(crate) addresses: AddressRule,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    /// The time from the request to the end of the reply's head.
    pub(crate) within: Duration,
}

/// Connections that share their settings, and the pool that keeps them.
#[derive(Clone)]
pub(crate) struct Http {
    agent: ureq::Agent,
    proxies: Proxies,
    min_rate: MinRate,
    bandwidth: Arc<RateLimit>,
    counters: Arc<ClientCounters>,
}

impl Http {
    /// Creates a pool of connections to hosts with `trust`, and to proxies with `proxy_trust`.
    ///
    /// # Errors
    /// `InvalidConfig` if a certificate or a key cannot be used.
    pub(crate) fn new(
        limits: &HttpLimits,
        trust: &Trust,
        proxy_trust: &Trust,
        proxies: &Proxies,
        resolver: Arc<dyn Resolver>,
        bandwidth: Arc<RateLimit>,
        counters: Arc<ClientCounters>,
    ) -> Result<Self, Error> {
        let config = Config::builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("oci-puller/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .max_response_header_size(MAX_HEAD)
            .max_idle_connections(limits.idle_connections.saturating_mul(8))
            .max_idle_connections_per_host(limits.idle_connections)
            .proxy(None)
            .build();
        let connector = Connector {
            resolver,
            proxies: proxies.clone(),
            tls: tls::config(trust)?,
            proxy_tls: tls::config(proxy_trust)?,
            is_verifying: !trust.skip_verify,
            timeout: limits.connect,
        };
        let read_limits = ReadLimits { silence: limits.silence, whole: limits.min_rate.time };
        let agent = transport::agent(config, connector, read_limits);
        Ok(Http { agent, proxies: proxies.clone(), min_rate: limits.min_rate, bandwidth, counters })
    }

    /// Sends a request, and returns a reply of any status.
    ///
    /// # Errors
    /// `HostNotFound`, `ConnectionFailed`, `Tls`, `Timeout`, `Protocol`, `Cancelled`.
    pub(crate) fn get(&self, cx: &PullContext, request: &HttpRequest<'_>) -> Result<HttpReply, Error> {
        let HttpRequest { url, headers, .. } = request;
        self.ask(cx, request, true, || with_headers(Request::get(*url), headers).body(()))
    }

    /// Posts a form.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(crate) fn post_form(
        &self,
        cx: &PullContext,
        request: &HttpRequest<'_>,
        form: &str,
    ) -> Result<HttpReply, Error> {
        let own = [("content-type", "application/x-www-form-urlencoded"), ("accept", "application/json")];
        let HttpRequest { url, headers, .. } = request;
        self.ask(cx, request, false, || {
            with_headers(with_headers(Request::post(*url), headers), &own).body(form)
        })
    }

    /// Sends the request; repeats it once on a new connection if an idle one turns out to be closed.
    fn ask<B: AsSendBody>(
        &self,
        cx: &PullContext,
        request: &HttpRequest<'_>,
        repeatable: bool,
        build: impl Fn() -> Result<Request<B>, http::Error>,
    ) -> Result<HttpReply, Error> {
        let (exchange, hook) = HttpExchange::begin(cx, request.addresses, &self.bandwidth)?;
        let counters = self.counters.of_host(request.url.authority().map_or("", |host| host.as_str()));
        counters.count_request();
        // The longest time means as long as the connection lives.
        let within = Some(request.within).filter(|within| *within < FOREVER);
        let run = || {
            let request = build().map_err(ureq::Error::from)?;
            let request = self.agent.configure_request(request).timeout_recv_response(within).build();
            exchange.during(|| self.agent.run(request))
        };
        let reply = match run() {
            // Not for a timeout: the server may be processing the request.
            Err(error) if error::is_closed(&error) && exchange.failed_on_idle_connection(repeatable) => {
                exchange.restart();
                run()
            }
            reply => reply,
        };
        let reply = reply.map_err(|error| error::of_ureq(error, request.within))?;
        let (head, body) = reply.into_parts();
        let peer = exchange.progress().peer;
        let body = HttpBody {
            reader: body.into_reader(),
            meter: RateMeter::new(self.min_rate, Arc::default()),
            is_paced: true,
            counters,
            exchange,
            _hook: hook,
        };
        let proxy = self.forwarding_proxy(request.url);
        let reply = HttpReply {
            status: head.status.as_u16(),
            headers: head.headers,
            peer,
            proxy: proxy.map(ToString::to_string),
            body,
        };
        if let Some(proxy) = proxy
            && let Some(refusal) = reply.refusal_of_proxy()
        {
            return Err(proxy.named(refusal));
        }
        Ok(reply)
    }
}

impl Http {
    /// Returns the proxy that answers for the host of a plain HTTP URL.
    fn forwarding_proxy(&self, url: &Uri) -> Option<&Proxy> {
        let is_plain = url.scheme_str() == Some("http");
        let proxy = self.proxies.for_url(!is_plain, url.host().unwrap_or_default(), port_of(url));
        proxy.filter(|_| is_plain)
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http")
    }
}

fn with_headers(request: http::request::Builder, headers: &[(&str, &str)]) -> http::request::Builder {
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}
