//! One request and its response over HTTP/2, without I/O: bytes go in, bytes come out.
//!
//! Each exchange has a connection of its own with one stream, which is enough for a unary gRPC call to a local socket:
//! no multiplexing, no push, no priorities. Everything that the peer sends is limited ([`exchange`]). The crates that do
//! HTTP/2 without a runtime are pre-releases or young (`shiguredo_http2`, `ringline-h2`), and more than that needs.

mod exchange;
mod frame;
mod hpack;

pub(super) use exchange::{Http2Error, Http2Exchange, Http2Request, Http2Response};
pub(super) use hpack::HeaderField;
#[cfg(fuzzing)]
pub(super) use hpack::HpackDecoder;
