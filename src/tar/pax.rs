//! Extended headers: pax records about the next entry.

use std::io;

use super::block::{decimal, invalid, quoted};
use super::header::Time;
use super::sparse::SparseRecords;

/// The key of an extended attribute's record begins with this.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// What an extended header says about the entry after it.
#[derive(Clone, Debug, Default)]
pub(super) struct Extension {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<Vec<u8>>,
    pub(super) gid: Option<Vec<u8>>,
    pub(super) mtime: Option<Vec<u8>>,
    /// Names and values.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: SparseRecords,
}

impl Extension {
    /// Reads records: `length key=value\n`, the length in decimal and of the whole record.
    pub(super) fn parse(mut records: &[u8]) -> io::Result<Self> {
        let mut extension = Extension::default();
        while !records.is_empty() {
            let (key, value, rest) =
                split_record(records).ok_or_else(|| invalid("an extended header is broken"))?;
            extension.take(key, value)?;
            records = rest;
        }
        Ok(extension)
    }

    /// A record with an empty value takes an earlier one back; other keys than these mean nothing here.
    fn take(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let present = || (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = present(),
            b"linkpath" => self.link = present(),
            b"size" if value.is_empty() => self.size = None,
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = present(),
            b"gid" => self.gid = present(),
            b"mtime" => self.mtime = present(),
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.take(name, value)?;
                }
            }
        }
        Ok(())
    }
}

/// The first record's key and value, and the records after it.
fn split_record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    // A length of more digits than these is no length of anything here.
    let space = records.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(records.get(..space)?).ok()?).ok()?;
    let record = records.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((record.get(..equals)?, record.get(equals + 1..)?, records.get(length..)?))
}

/// A time in decimal seconds, perhaps negative, perhaps with a fraction; digits after the ninth are
/// dropped.
pub(super) fn time(text: &[u8]) -> io::Result<Time> {
    let broken = || invalid(format!("{:?} in an extended header is no time", quoted(text)));
    let (is_negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let whole = parts.next().unwrap_or_default();
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(broken());
    }
    let seconds = decimal(whole).ok().and_then(|seconds| i64::try_from(seconds).ok()).ok_or_else(broken)?;
    let nanos =
        (0..9).fold(0, |nanos, at| nanos * 10 + u32::from(fraction.get(at).map_or(0, |digit| digit - b'0')));
    Ok(match (is_negative, nanos) {
        (false, _) => Time { seconds, nanos },
        (true, 0) => Time { seconds: -seconds, nanos: 0 },
        (true, _) => Time { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_and_broken_ones_refused() {
        let extension =
            Extension::parse(b"12 path=a=b\n7 uid=\n27 SCHILY.xattr.user.k=\0\n\xff\n9 size=7\n").unwrap();
        assert_eq!(extension.path.as_deref(), Some(&b"a=b"[..]));
        assert_eq!(extension.size, Some(7));
        assert_eq!(extension.uid, None);
        assert_eq!(extension.xattrs, [(b"user.k".to_vec(), b"\0\n\xff".to_vec())]);
        let broken: [&[u8]; 8] = [
            b"x",
            b"12 path=a=b",
            b"99 path=a=b\n",
            b"0 path=a\n",
            b"-1 path=a\n",
            b"9 path=ab\n",
            b"6 path\n",
            b"11 size=0x1\n",
        ];
        for records in broken {
            assert!(Extension::parse(records).is_err(), "{:?}", quoted(records));
        }
    }

    #[test]
    fn times_have_fractions_and_signs() {
        let cases = [
            ("0", 0, 0),
            ("1600000000.5", 1_600_000_000, 500_000_000),
            ("1.123456789999", 1, 123_456_789),
            ("7.", 7, 0),
            ("-1.5", -2, 500_000_000),
            ("-3", -3, 0),
            ("-0.000000001", -1, 999_999_999),
        ];
        for (text, seconds, nanos) in cases {
            assert_eq!(time(text.as_bytes()).unwrap(), Time { seconds, nanos }, "{text}");
        }
        for text in ["", "-", ".5", "1e3", "1.5.5", "+1", "99999999999999999999", "0x1", "1.x"] {
            assert!(time(text.as_bytes()).is_err(), "{text}");
        }
    }
}
