//! HTTP over ureq, which no other module names: one request and its reply, whose waits end with the context of the
//! pull.
//!
//! From the top: `agent` sends requests, `reply` reads replies, `transport` implements ureq's transport,
//! `connect` makes connections with `proxy`, `dns`, `dial`, `tcp` and `tls`, and `exchange` connects all of them
//! with the pull.

mod agent;
mod bandwidth;
mod buffers;
mod connect;
mod dial;
mod dns;
mod error;
mod exchange;
mod min_rate;
mod proxy;
mod reply;
mod stream;
mod tcp;
mod tls;
mod transport;

pub(crate) use agent::{Http, HttpLimits, HttpRequest};
pub(crate) use dns::use_threads;
pub use dns::{Resolver, SystemResolver};
pub(crate) use min_rate::{MinRate, SharedRate};
#[cfg(fuzzing)]
pub(crate) use proxy::fuzz_exceptions as fuzz_no_proxy;
pub(crate) use proxy::{Proxies, ProxyChoice};
pub(crate) use reply::{HttpBody, HttpReply};
pub(crate) use tls::Trust;
// The types of URLs and headers.
pub(super) use ureq::http::{HeaderName, HeaderValue, StatusCode, Uri, uri};
