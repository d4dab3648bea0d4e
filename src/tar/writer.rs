//! Writes an archive: ustar, with pax records for values that do not fit its fields.

use std::io::{self, Read, Write};

use super::block::{BLOCK, invalid};
use super::header::{Header, Time};

/// The largest values of the fields.
const MAX_ID: u32 = 0o7_777_777;
const MAX_SIZE: u64 = 0o77_777_777_777;

/// Writes an archive. Nothing in it depends on when, where or by whom it is written.
pub(crate) struct Writer<W> {
    archive: W,
}

/// What a header says.
#[derive(Clone, Copy, Default)]
pub(crate) struct HeaderFields<'a> {
    /// The type flag.
    pub(crate) flag: u8,
    pub(crate) path: &'a [u8],
    /// What a link leads to.
    pub(crate) link: &'a [u8],
    /// Bytes of content.
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    /// Major and minor number.
    pub(crate) device: (u32, u32),
    /// Names and values of extended attributes.
    pub(crate) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(archive: W) -> Self {
        Writer { archive }
    }

    pub(crate) fn folder(&mut self, path: &str) -> io::Result<()> {
        let path = format!("{path}/");
        self.header(&HeaderFields {
            flag: b'5',
            mode: 0o755,
            path: path.as_bytes(),
            ..HeaderFields::default()
        })
    }

    /// A file of `size` bytes, which are all that `content` has.
    pub(crate) fn file(&mut self, path: &str, size: u64, content: impl Read) -> io::Result<()> {
        self.header(&HeaderFields {
            flag: b'0',
            mode: 0o644,
            path: path.as_bytes(),
            size,
            ..HeaderFields::default()
        })?;
        self.content(path, size, content)
    }

    /// An entry's header; a file's content follows.
    pub(crate) fn header(&mut self, fields: &HeaderFields<'_>) -> io::Result<()> {
        let records = records(fields);
        if !records.is_empty() {
            let size = records.len() as u64;
            self.block(&HeaderFields {
                flag: b'x',
                mode: 0o644,
                path: b"pax",
                size,
                ..HeaderFields::default()
            })?;
            self.archive.write_all(&records)?;
            self.pad(size)?;
        }
        self.block(fields)
    }

    /// A file's content: `size` bytes, which are all that `content` has. The name is for the error.
    pub(crate) fn content(&mut self, path: &str, size: u64, mut content: impl Read) -> io::Result<()> {
        let mut buffer = vec![0; usize::try_from(size).unwrap_or(usize::MAX).clamp(1, 256 << 10)];
        let mut written = 0;
        loop {
            let read = content.read(&mut buffer)?;
            written += read as u64;
            match buffer.get(..read) {
                None | Some([]) => break,
                Some(bytes) if written <= size => self.archive.write_all(bytes)?,
                Some(_) => break,
            }
        }
        if written != size {
            return Err(invalid(format!("{path} is not {size} bytes, as it was")));
        }
        self.pad(size)
    }

    /// Ends the archive, and gives back what it was written to.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.archive.write_all(&[0; 2 * BLOCK])?;
        self.archive.flush()?;
        Ok(self.archive)
    }

    fn block(&mut self, fields: &HeaderFields<'_>) -> io::Result<()> {
        let mut header = Header([0; BLOCK]);
        put(&mut header, 0, fields.path.get(..fields.path.len().min(100)).unwrap_or_default());
        let (uid, gid) = (fields.uid.min(MAX_ID), fields.gid.min(MAX_ID));
        put(&mut header, 100, format!("{:07o}\0{uid:07o}\0{gid:07o}\0", fields.mode & 0o7777).as_bytes());
        let (size, seconds) = (fields.size.min(MAX_SIZE), plain_seconds(fields.mtime).unwrap_or(0));
        put(&mut header, 124, format!("{size:011o}\0{seconds:011o}\0").as_bytes());
        put(&mut header, 156, &[fields.flag]);
        put(&mut header, 157, fields.link.get(..fields.link.len().min(100)).unwrap_or_default());
        put(&mut header, 257, b"ustar\x0000");
        if matches!(fields.flag, b'3' | b'4') {
            let (major, minor) = fields.device;
            put(&mut header, 329, format!("{major:07o}\0{minor:07o}\0").as_bytes());
        }
        let checksum = header.checksum();
        put(&mut header, 148, format!("{checksum:06o}\0 ").as_bytes());
        self.archive.write_all(&header.0)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        io::copy(&mut io::repeat(0).take(padding), &mut self.archive).map(drop)
    }
}

/// The records for what the fields have no room for.
fn records(fields: &HeaderFields<'_>) -> Vec<u8> {
    let mut records = Vec::new();
    let mut put = |key: &[u8], value: &[u8]| records.extend(record(key, value));
    if fields.path.len() > 100 {
        put(b"path", fields.path);
    }
    if fields.link.len() > 100 {
        put(b"linkpath", fields.link);
    }
    if fields.size > MAX_SIZE {
        put(b"size", fields.size.to_string().as_bytes());
    }
    if fields.uid > MAX_ID {
        put(b"uid", fields.uid.to_string().as_bytes());
    }
    if fields.gid > MAX_ID {
        put(b"gid", fields.gid.to_string().as_bytes());
    }
    if plain_seconds(fields.mtime).is_none() {
        put(b"mtime", decimal_time(fields.mtime).as_bytes());
    }
    for (name, value) in fields.xattrs {
        put(&[b"SCHILY.xattr.", &name[..]].concat(), value);
    }
    records
}

/// A pax record; its length counts itself.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// The seconds, if the field has room for the whole time.
fn plain_seconds(time: Time) -> Option<u64> {
    u64::try_from(time.seconds).ok().filter(|seconds| *seconds <= MAX_SIZE && time.nanos == 0)
}

/// A time in decimal seconds. A negative one counts down: -2 s and 0.5 s are -1.5.
fn decimal_time(time: Time) -> String {
    let (seconds, nanos) = (i128::from(time.seconds), i128::from(time.nanos));
    let total = seconds * 1_000_000_000 + nanos;
    let sign = if total < 0 { "-" } else { "" };
    let (whole, fraction) = (total.abs() / 1_000_000_000, total.abs() % 1_000_000_000);
    match fraction {
        0 => format!("{sign}{whole}"),
        _ => format!("{sign}{whole}.{fraction:09}"),
    }
}

fn put(header: &mut Header, at: usize, bytes: &[u8]) {
    header.0.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
}
