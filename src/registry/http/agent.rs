//! Requests: each has one reply, and each wait ends with the pull that it is for.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ureq::AsSendBody;
use ureq::config::Config;
use ureq::http::{self, Request, Uri};

use super::connect::Connector;
use super::dns::Resolver;
use super::error;
use super::exchange::{Exchange, MAX_HEAD};
use super::min_rate::{MinRate, RateMeter};
use super::proxy::Proxies;
use super::reply::{Body, Reply};
use super::tls::{self, Trust};
use super::transport::{self, ReadLimits};
use crate::context::PullContext;
use crate::error::Error;
use crate::registry::address::AddressRule;

/// How long things may take.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Limits {
    /// Looking a name up; and then connecting, TLS included.
    pub(crate) connect: Duration,
    /// From the request to the end of the reply's head.
    pub(crate) head: Duration,
    /// Between one byte and the next.
    pub(crate) silence: Duration,
    /// A slower body is given up.
    pub(crate) min_rate: MinRate,
    /// Connections kept open for a host while they are idle.
    pub(crate) idle_connections: usize,
}

/// Connections that share their settings, and the pool that keeps them.
#[derive(Clone)]
pub(crate) struct Http {
    agent: ureq::Agent,
    min_rate: MinRate,
}

impl Http {
    /// Prepares connections to hosts that are trusted by `trust`, and to proxies by `proxy_trust`.
    ///
    /// # Errors
    /// `InvalidConfig` if a certificate or a key cannot be used.
    pub(crate) fn new(
        limits: &Limits,
        trust: &Trust,
        proxy_trust: &Trust,
        proxies: &Proxies,
        resolver: Arc<dyn Resolver>,
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
            .timeout_recv_response(Some(limits.head))
            .timeout_per_write(Some(limits.silence))
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
        Ok(Http { agent: transport::agent(config, connector, read_limits), min_rate: limits.min_rate })
    }

    /// Asks for `url`, at an address that `addresses` allows; a reply of any status is one.
    ///
    /// # Errors
    /// `HostNotFound`, `ConnectionFailed`, `Tls`, `Timeout`, `Protocol`, `Cancelled`.
    pub(crate) fn get(
        &self,
        cx: &PullContext,
        url: &Uri,
        addresses: AddressRule,
        headers: &[(&str, &str)],
    ) -> Result<Reply, Error> {
        self.ask(cx, addresses, true, || with_headers(Request::get(url), headers).body(()))
    }

    /// Posts a form to `url`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(crate) fn post_form(
        &self,
        cx: &PullContext,
        url: &Uri,
        addresses: AddressRule,
        form: &str,
    ) -> Result<Reply, Error> {
        let headers = [("content-type", "application/x-www-form-urlencoded"), ("accept", "application/json")];
        self.ask(cx, addresses, false, || with_headers(Request::post(url), &headers).body(form))
    }

    /// Sends the request, and once more on a new connection where a kept one turned out to be closed.
    fn ask<B: AsSendBody>(
        &self,
        cx: &PullContext,
        addresses: AddressRule,
        repeatable: bool,
        request: impl Fn() -> Result<Request<B>, http::Error>,
    ) -> Result<Reply, Error> {
        let (exchange, hook) = Exchange::begin(cx, addresses)?;
        let run = || exchange.during(|| self.agent.run(request().map_err(ureq::Error::from)?));
        let reply = match run() {
            // Not for a time-out: the server may be at work.
            Err(error) if error::is_closed(&error) && exchange.failed_on_idle_connection(repeatable) => {
                exchange.restart();
                run()
            }
            reply => reply,
        };
        let reply = reply.map_err(error::of_ureq)?;
        let (head, body) = reply.into_parts();
        let peer = exchange.progress().peer;
        let body =
            Body { reader: body.into_reader(), meter: RateMeter::new(self.min_rate), exchange, _hook: hook };
        let reply = Reply { status: head.status.as_u16(), headers: head.headers, peer, body };
        reply.refuse_encoding()?;
        Ok(reply)
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
