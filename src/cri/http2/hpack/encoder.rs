//! The encoder: each field is a literal that is never indexed, so that no table of the peer keeps a secret.

/// Appends a header block of `fields`, whose names are in lower case.
pub(crate) fn encode(fields: &[(&str, &str)], out: &mut Vec<u8>) {
    for (name, value) in fields {
        out.push(0x10);
        string(name, out);
        string(value, out);
    }
}

fn string(text: &str, out: &mut Vec<u8>) {
    let length = text.len();
    if length < 0x7f {
        out.push(length as u8);
    } else {
        out.push(0x7f);
        let mut rest = length - 0x7f;
        while rest >= 0x80 {
            out.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        out.push(rest as u8);
    }
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::decoder::HpackDecoder;
    use super::*;

    #[test]
    fn the_decoder_reads_what_the_encoder_writes() {
        for length in [0, 1, 126, 127, 128, 254, 255, 300, 20_000] {
            let value = "v".repeat(length);
            let mut block = Vec::new();
            encode(&[(":path", "/a"), ("x-long", &value)], &mut block);
            let fields = HpackDecoder::new(64 << 10).decode(&block).unwrap();
            assert_eq!(fields[1], (b"x-long".to_vec(), value.into_bytes()));
        }
    }
}
