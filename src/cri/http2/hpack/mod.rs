//! Header compression for HTTP/2, [RFC 7541](https://datatracker.ietf.org/doc/html/rfc7541): the whole decoder,
//! and an encoder that compresses nothing.

mod decoder;
mod encoder;
mod error;
mod huffman;
mod static_table;

pub(super) use decoder::Decoder;
pub(super) use encoder::encode;
pub(crate) use error::{Field, HpackError};
