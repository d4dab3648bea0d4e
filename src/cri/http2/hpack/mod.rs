//! Header compression for HTTP/2, [RFC 7541](https://datatracker.ietf.org/doc/html/rfc7541): a full decoder,
//! and an encoder that does not compress.

mod decoder;
mod encoder;
mod error;
mod huffman;
mod static_table;

pub(crate) use decoder::HpackDecoder;
pub(super) use encoder::encode;
pub(crate) use error::{HeaderField, HpackError};
