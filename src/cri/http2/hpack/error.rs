//! Header fields and the errors of header blocks.

use thiserror::Error;

/// A header field: name and value.
pub(crate) type HeaderField = (Vec<u8>, Vec<u8>);

/// A header block that breaks the specification or a limit.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum HpackError {
    #[error("the header block is cut")]
    Cut,
    #[error("a number in the header block is too large")]
    Number,
    #[error("the header block names an entry that its table lacks")]
    Index,
    #[error("a Huffman code in the header block is wrong")]
    Huffman,
    #[error("the header block resizes its table beyond the limit, or too late")]
    Resize,
    #[error("the header fields are longer than the limit")]
    TooLarge,
}

/// Reads hexadecimal digits, for the specification's examples.
#[cfg(test)]
pub(super) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}
