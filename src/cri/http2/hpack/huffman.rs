//! The [Huffman code](https://datatracker.ietf.org/doc/html/rfc7541#appendix-B) of HPACK.
//!
//! The code is canonical: codes of one length are consecutive, in the order of their symbols, and the first
//! code of a length follows from the shorter ones. The lengths alone define it.

use super::error::HpackError;

const MAX_LENGTH: usize = 30;

/// The length of the code of each byte and of the end-of-string symbol, bits.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7,
    8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7,
    15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24,
    23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23,
    23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26,
    26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20,
    21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27,
    27, 27, 26, 30,
];

const fn table() -> HuffmanTable {
    let mut counts = [0u16; MAX_LENGTH + 1];
    let mut symbol = 0;
    while symbol < LENGTHS.len() {
        counts[LENGTHS[symbol] as usize] += 1;
        symbol += 1;
    }
    let mut symbols = [0u16; 257];
    let mut filled = 0;
    let mut length = 1;
    while length <= MAX_LENGTH {
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                symbols[filled] = symbol as u16;
                filled += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    HuffmanTable { counts, symbols }
}

/// The canonical code.
struct HuffmanTable {
    /// The number of codes of each length.
    counts: [u16; MAX_LENGTH + 1],
    /// The symbols, by the length of their code, then by value.
    symbols: [u16; 257],
}

static TABLE: HuffmanTable = table();

/// Decodes a string.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<u8>, HpackError> {
    // The shortest code has 5 bits.
    let mut out = Vec::with_capacity(bytes.len() * 8 / 5);
    let mut walk = HuffmanWalk::default();
    for byte in bytes {
        for bit in (0..8).rev() {
            if let Some(symbol) = walk.push(u32::from(byte >> bit & 1))? {
                out.push(symbol);
            }
        }
    }
    // The bits that are left pad the last byte; they must be ones.
    if walk.length < 8 && walk.code + 1 == 1 << walk.length { Ok(out) } else { Err(HpackError::Huffman) }
}

/// The bits of an incomplete code.
#[derive(Default)]
struct HuffmanWalk {
    code: u32,
    length: usize,
    /// The first code of this length, and the index of its symbol.
    first: u32,
    place: usize,
}

impl HuffmanWalk {
    fn push(&mut self, bit: u32) -> Result<Option<u8>, HpackError> {
        self.code = self.code << 1 | bit;
        self.length += 1;
        self.first <<= 1;
        let count = u32::from(*TABLE.counts.get(self.length).ok_or(HpackError::Huffman)?);
        if let Some(offset) = self.code.checked_sub(self.first).filter(|offset| *offset < count) {
            let symbol = TABLE.symbols.get(self.place + offset as usize).copied();
            let symbol = symbol.and_then(|symbol| u8::try_from(symbol).ok()).ok_or(HpackError::Huffman)?;
            *self = HuffmanWalk::default();
            return Ok(Some(symbol));
        }
        self.first += count;
        self.place += count as usize;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_specification_are_decoded() {
        for (hex, text) in [
            ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
            ("a8eb10649cbf", "no-cache"),
            ("25a849e95ba97d7f", "custom-key"),
            ("25a849e95bb8e8b4bf", "custom-value"),
            ("6402", "302"),
            ("aec3771a4b", "private"),
            ("d07abe941054d444a8200595040b8166e082a62d1bff", "Mon, 21 Oct 2013 20:13:21 GMT"),
            ("9d29ad171863c78f0b97c8e9ae82ae43d3", "https://www.example.com"),
            ("", ""),
        ] {
            assert_eq!(decode(&super::super::error::hex(hex)).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn wrong_padding_and_the_end_symbol_are_refused() {
        // Zeros as padding; a whole byte of padding; the end-of-string symbol.
        for hex in ["00", "1fff", "ffffffff", "fffffffc"] {
            assert!(decode(&super::super::error::hex(hex)).is_err(), "{hex}");
        }
    }

    #[test]
    fn each_byte_has_its_own_code() {
        let mut seen = TABLE.symbols.to_vec();
        seen.sort_unstable();
        assert!(seen.iter().copied().eq(0..257));
        // Kraft's equality: the code is complete.
        let sum: u64 = LENGTHS.iter().map(|length| 1u64 << (MAX_LENGTH - usize::from(*length))).sum();
        assert_eq!(sum, 1 << MAX_LENGTH);
    }
}
