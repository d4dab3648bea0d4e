//! One request and its response over HTTP/2, without I/O: bytes go in, bytes come out.
//!
//! Each exchange has a connection of its own with one stream, as a unary gRPC call to a local socket needs it:
//! no multiplexing, no push, no priorities. All that the peer sends is bounded ([`exchange`]).

mod exchange;
mod frame;
mod hpack;

pub(super) use exchange::{Exchange, ExchangeError, Request, Response};
pub(super) use hpack::Field;
