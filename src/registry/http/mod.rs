//! HTTP, and the only room that knows ureq: one request, one reply, each wait cut short by the context
//! of the pull that it is for.
//!
//! From the top: `agent` sends requests, `reply` reads what comes back, `transport` is ureq's seam,
//! `connect` makes connections by `proxy`, `dns`, `dial`, `tcp` and `tls`, and `exchange` ties all of it
//! to the pull.

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
// The types that URLs and headers are made of.
pub(super) use ureq::http::{HeaderName, HeaderValue, StatusCode, Uri, uri};
