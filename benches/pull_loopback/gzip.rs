//! Layers as registries have them, in gzip's format: tools that find a layer uncompressed compress it.
//!
//! What is random does not get smaller, so it is stored as it is: the format of
//! [RFC 1952](https://www.rfc-editor.org/rfc/rfc1952#section-2.3), with stored blocks as of
//! [RFC 1951](https://www.rfc-editor.org/rfc/rfc1951#section-3.2.4).

const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// The longest block that can be stored, bytes.
const BLOCK: usize = 0xffff;

pub(crate) fn stored(data: &[u8]) -> Vec<u8> {
    let blocks = data.len().div_ceil(BLOCK);
    let mut file = Vec::with_capacity(HEAD.len() + data.len() + 5 * blocks + 8);
    file.extend(HEAD);
    for (number, block) in data.chunks(BLOCK).enumerate() {
        let length = block.len() as u16;
        file.push(u8::from(number + 1 == blocks));
        file.extend(length.to_le_bytes());
        file.extend((!length).to_le_bytes());
        file.extend(block);
    }
    file.extend(crc32(data).to_le_bytes());
    file.extend((data.len() as u32).to_le_bytes());
    file
}

fn crc32(data: &[u8]) -> u32 {
    let table: [u32; 256] = std::array::from_fn(|byte| (0..8).fold(byte as u32, |crc, _| shifted(crc)));
    !data.iter().fold(!0, |crc, byte| table[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

fn shifted(crc: u32) -> u32 {
    let carry = if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
    (crc >> 1) ^ carry
}
