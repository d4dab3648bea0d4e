//! A header block and its fields.

use std::io;
use std::ops::Range;

use super::block::{BLOCK, invalid};

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Dir,
    Fifo,
    /// A type flag that is none of the above.
    Unknown(u8),
}

/// A point in time: seconds since 1970, and nanoseconds after that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanos: u32,
}

/// A header block.
#[derive(Clone)]
pub(super) struct Header(pub(super) [u8; BLOCK]);

impl Header {
    /// The block's header; `None` for a block of zeros.
    pub(super) fn parse(block: [u8; BLOCK]) -> io::Result<Option<Self>> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header(block);
        let sum = header.number(148..156)?;
        if sum != i128::from(header.checksum()) && sum != i128::from(header.signed_checksum()) {
            return Err(invalid("it is no tar archive, or damaged: a header's checksum is wrong"));
        }
        Ok(Some(header))
    }

    pub(super) fn flag(&self) -> u8 {
        self.0[156]
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(self.field(0..100));
        if self.field(257..263) != b"ustar\0" {
            return name.to_vec();
        }
        // Archives of `star` keep times in the end of the prefix.
        let end = if self.field(508..512) == b"tar\0" { 476 } else { 500 };
        match text(self.field(345..end)) {
            b"" => name.to_vec(),
            prefix => [prefix, b"/", name].concat(),
        }
    }

    pub(super) fn link(&self) -> &[u8] {
        text(self.field(157..257))
    }

    pub(super) fn size(&self) -> io::Result<u64> {
        self.unsigned(124..136, "size")
    }

    pub(super) fn mode(&self) -> io::Result<u32> {
        Ok(u32::try_from(self.number(100..108)? & 0o7777).unwrap_or(0))
    }

    pub(super) fn uid(&self) -> io::Result<u64> {
        self.unsigned(108..116, "user id")
    }

    pub(super) fn gid(&self) -> io::Result<u64> {
        self.unsigned(116..124, "group id")
    }

    pub(super) fn mtime(&self) -> io::Result<Time> {
        let seconds = self.number(136..148)?;
        let seconds = i64::try_from(seconds).map_err(|_| invalid(format!("a time is {seconds} s")))?;
        Ok(Time { seconds, nanos: 0 })
    }

    /// The major and minor number of a device.
    pub(super) fn device(&self) -> io::Result<(u64, u64)> {
        Ok((self.unsigned(329..337, "device number")?, self.unsigned(337..345, "device number")?))
    }

    pub(super) fn field(&self, range: Range<usize>) -> &[u8] {
        self.0.get(range).unwrap_or_default()
    }

    pub(super) fn unsigned(&self, range: Range<usize>, what: &str) -> io::Result<u64> {
        let number = self.number(range)?;
        u64::try_from(number).map_err(|_| invalid(format!("a {what} is {number}")))
    }

    fn number(&self, range: Range<usize>) -> io::Result<i128> {
        number(self.field(range))
    }

    /// The sum of the block's bytes, its own field counted as blanks.
    pub(super) fn checksum(&self) -> u64 {
        self.0.iter().map(|byte| u64::from(*byte)).sum::<u64>() - self.sum_field() + 8 * 32
    }

    /// The same sum as old tools made it, with bytes as signed numbers.
    fn signed_checksum(&self) -> i64 {
        let sum: i64 = self.0.iter().map(|byte| i64::from(byte.cast_signed())).sum();
        let field: i64 = self.field(148..156).iter().map(|byte| i64::from(byte.cast_signed())).sum();
        sum - field + 8 * 32
    }

    fn sum_field(&self) -> u64 {
        self.field(148..156).iter().map(|byte| u64::from(*byte)).sum()
    }
}

/// A number in octal, or in binary with the first bit of the field set, as GNU writes what octal has no
/// room for.
pub(super) fn number(field: &[u8]) -> io::Result<i128> {
    if let Some((first, rest)) = field.split_first().filter(|(first, _)| **first & 0x80 != 0) {
        // The second bit is the sign.
        let start = if first & 0x40 != 0 { -1 << 6 } else { 0 } | i128::from(first & 0x3f);
        return Ok(rest.iter().fold(start, |number, byte| number << 8 | i128::from(*byte)));
    }
    let digits = text(field).trim_ascii();
    if let Some(wrong) = digits.iter().find(|digit| !(b'0'..=b'7').contains(*digit)) {
        return Err(invalid(format!("a number in a header has the byte {wrong:#04x}")));
    }
    // At most twelve digits, which is 36 bits.
    Ok(digits.iter().fold(0, |number, digit| number << 3 | i128::from(digit - b'0')))
}

/// A field's text, up to the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    field.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        let cases: [(&[u8], i128); 9] = [
            (b"0000644\0", 0o644),
            (b"  644 \0\0", 0o644),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"77777777777 ", 0o77777777777),
            (b"777777777777", 0o777777777777),
            (&[0x80, 0, 0, 1, 0, 0, 0, 0], 1 << 32),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe], -2),
            (&[0xbf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], (1 << 62) - 1),
            (&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], u64::MAX as i128),
        ];
        for (field, expected) in cases {
            assert_eq!(number(field).unwrap(), expected, "{field:?}");
        }
        for field in [&b"0000648\0"[..], b"-000001\0", b"+000001\0", b"0x1\0", b"1 2\0"] {
            assert!(number(field).is_err(), "{field:?}");
        }
    }
}
