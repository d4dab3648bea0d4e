//! The decoder of header blocks.

use std::collections::VecDeque;

use super::error::{HeaderField, HpackError};
use super::huffman;
use super::static_table::STATIC_TABLE;

/// The size of the dynamic table, bytes as the specification counts them: the default, which this client's SETTINGS do
/// not change.
const TABLE_SIZE: usize = 4096;
/// Bytes that the specification adds to the name and value of each entry.
const ENTRY_OVERHEAD: usize = 32;

/// Decodes the header blocks of one connection.
#[derive(Debug)]
pub(crate) struct HpackDecoder {
    /// The newest entry first.
    table: VecDeque<HeaderField>,
    size: usize,
    capacity: usize,
    /// The limit on the decoded fields of a block, counted as table entries are.
    max_fields: usize,
}

impl HpackDecoder {
    pub(crate) fn new(max_fields: usize) -> Self {
        HpackDecoder { table: VecDeque::new(), size: 0, capacity: TABLE_SIZE, max_fields }
    }

    /// Decodes one block.
    pub(crate) fn decode(&mut self, mut block: &[u8]) -> Result<Vec<HeaderField>, HpackError> {
        let mut fields = Vec::new();
        let mut left = self.max_fields;
        while let Some(&first) = block.first() {
            let field = if first & 0x80 != 0 {
                let index = integer(&mut block, 7)?;
                self.entry(index)?
            } else if first & 0x40 != 0 {
                let field = self.literal(&mut block, 6)?;
                self.insert(field.clone());
                field
            } else if first & 0x20 != 0 {
                let capacity = integer(&mut block, 5)?;
                // A resize is allowed at the beginning of a block only.
                if capacity > TABLE_SIZE || !fields.is_empty() {
                    return Err(HpackError::Resize);
                }
                self.capacity = capacity;
                self.evict(0);
                continue;
            } else {
                self.literal(&mut block, 4)?
            };
            left = left.checked_sub(size_of(&field)).ok_or(HpackError::TooLarge)?;
            fields.push(field);
        }
        Ok(fields)
    }

    fn literal(&self, block: &mut &[u8], prefix: u32) -> Result<HeaderField, HpackError> {
        let name = match integer(block, prefix)? {
            0 => string(block)?,
            index => self.entry(index)?.0,
        };
        Ok((name, string(block)?))
    }

    fn entry(&self, index: usize) -> Result<HeaderField, HpackError> {
        let index = index.checked_sub(1).ok_or(HpackError::Index)?;
        if let Some((name, value)) = STATIC_TABLE.get(index) {
            return Ok((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        }
        self.table.get(index - STATIC_TABLE.len()).cloned().ok_or(HpackError::Index)
    }

    fn insert(&mut self, field: HeaderField) {
        let size = size_of(&field);
        self.evict(size);
        // A field larger than the table empties it.
        if size <= self.capacity {
            self.size += size;
            self.table.push_front(field);
        }
    }

    /// Removes the oldest entries until there is room for `wanted` bytes.
    fn evict(&mut self, wanted: usize) {
        while self.size + wanted > self.capacity {
            let Some(oldest) = self.table.pop_back() else { return };
            self.size -= size_of(&oldest);
        }
    }
}

fn size_of((name, value): &HeaderField) -> usize {
    name.len() + value.len() + ENTRY_OVERHEAD
}

/// Reads an integer that begins in the last `prefix` bits of the first byte.
fn integer(block: &mut &[u8], prefix: u32) -> Result<usize, HpackError> {
    let mask = (1usize << prefix) - 1;
    let mut value = usize::from(next(block)?) & mask;
    if value < mask {
        return Ok(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = next(block)?;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(HpackError::Number)
}

fn string(block: &mut &[u8]) -> Result<Vec<u8>, HpackError> {
    let is_huffman = block.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or(HpackError::Cut)?;
    *block = rest;
    if is_huffman { huffman::decode(text) } else { Ok(text.to_vec()) }
}

fn next(block: &mut &[u8]) -> Result<u8, HpackError> {
    let (first, rest) = block.split_first().ok_or(HpackError::Cut)?;
    *block = rest;
    Ok(*first)
}

#[cfg(test)]
mod tests {
    use super::super::error::hex;
    use super::*;

    fn text(fields: Vec<HeaderField>) -> Vec<String> {
        let line = |(name, value): HeaderField| {
            format!("{}: {}", String::from_utf8(name).unwrap(), String::from_utf8(value).unwrap())
        };
        fields.into_iter().map(line).collect()
    }

    type Blocks = [(&'static str, &'static str, usize, usize); 3];

    /// Appendices C.3 and C.4: requests. The last field of each block, and the entries and the size of the table after it.
    const REQUESTS: [Blocks; 2] = [
        [
            ("828684410f7777772e6578616d706c652e636f6d", ":authority: www.example.com", 1, 57),
            ("828684be58086e6f2d6361636865", "cache-control: no-cache", 2, 110),
            (
                "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
                "custom-key: custom-value",
                3,
                164,
            ),
        ],
        [
            ("828684418cf1e3c2e5f23a6ba0ab90f4ff", ":authority: www.example.com", 1, 57),
            ("828684be5886a8eb10649cbf", "cache-control: no-cache", 2, 110),
            ("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf", "custom-key: custom-value", 3, 164),
        ],
    ];

    /// Appendices C.5 and C.6: responses, whose table of 256 bytes evicts entries.
    const RESPONSES: [Blocks; 2] = [
        [
            (
                "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e17687474\
                 70733a2f2f7777772e6578616d706c652e636f6d",
                "location: https://www.example.com",
                4,
                222,
            ),
            ("4803333037c1c0bf", "location: https://www.example.com", 4, 222),
            (
                "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a\
                 4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
                "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
                3,
                215,
            ),
        ],
        [
            (
                "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae\
                 82ae43d3",
                "location: https://www.example.com",
                4,
                222,
            ),
            ("4883640effc1c0bf", "location: https://www.example.com", 4, 222),
            (
                "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960\
                 d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
                "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
                3,
                215,
            ),
        ],
    ];

    #[test]
    fn the_examples_of_the_specification_are_decoded() {
        for (capacity, examples) in [(4096, REQUESTS), (256, RESPONSES)] {
            for blocks in examples {
                let mut decoder = HpackDecoder::new(64 << 10);
                decoder.capacity = capacity;
                for (block, last, entries, size) in blocks {
                    let fields = text(decoder.decode(&hex(block)).unwrap());
                    assert_eq!(fields.last().unwrap(), last);
                    assert_eq!((decoder.table.len(), decoder.size), (entries, size));
                }
            }
        }
    }

    #[test]
    fn invalid_header_blocks_are_refused() {
        for (block, error) in [
            ("80", HpackError::Index),
            ("be", HpackError::Index),
            ("ffffffffffff7f", HpackError::Number),
            ("0003616263", HpackError::Cut),
            ("000361", HpackError::Cut),
            ("3fe21f", HpackError::Resize),
            ("8820", HpackError::Resize),
            ("ff", HpackError::Cut),
        ] {
            assert_eq!(HpackDecoder::new(64 << 10).decode(&hex(block)), Err(error), "{block}");
        }
    }

    #[test]
    fn the_decoded_fields_are_bounded() {
        // One entry of 3,000 bytes, then 2-byte references to it: a decompression bomb.
        let mut block = vec![0x40, 1, b'x', 0x7f, 0xb9, 0x16];
        block.extend([b'v'; 3000]);
        block.extend([0xbe; 1000]);
        assert_eq!(HpackDecoder::new(64 << 10).decode(&block), Err(HpackError::TooLarge));
        assert_eq!(HpackDecoder::new(4 << 20).decode(&block).unwrap().len(), 1001);
    }
}
