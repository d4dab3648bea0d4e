//! Tar archives, as far as image archives go: regular files and folders, in
//! [ustar, with pax and GNU extensions](https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html#tag_20_94_13_06)
//! for long names and large sizes. Nothing is ever unpacked to a path that an archive names.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};

const BLOCK: usize = 512;
/// The longest extended header that is read, bytes.
const MAX_EXTENSION: u64 = 64 << 10;
/// How many entries an archive may have.
const MAX_ENTRIES: usize = 100_000;

/// Reads an archive entry by entry. What comes out is safe to use as a key, and may be anything else
/// that an attacker wants.
pub(super) struct Reader<R> {
    archive: R,
    /// Bytes of the current entry that are still to be read, and of its padding.
    left: u64,
    padding: u64,
    seen: HashSet<String>,
}

/// What an archive holds under a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A file of so many bytes; they are read from the [`Reader`] itself.
    File { path: String, size: u64 },
    /// Another name of a file in the archive.
    Alias { path: String, target: String },
}

impl<R: Read> Reader<R> {
    pub(super) fn new(archive: R) -> Self {
        Reader { archive, left: 0, padding: 0, seen: HashSet::new() }
    }

    /// The next file or alias; `None` at the archive's end. Folders are passed over.
    ///
    /// # Errors
    /// `InvalidData` for whatever an image archive has no use for: absolute paths, `..`, links,
    /// devices, sparse files, a path twice, too many entries. `UnexpectedEof` if it is cut short.
    pub(super) fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        self.skip()?;
        let mut extension = Extension::default();
        while let Some(header) = self.header()? {
            let size = extension.size.take().map_or_else(|| header.size(), Ok)?;
            if size > i64::MAX.unsigned_abs() {
                return Err(bad(format!("an entry claims {size} bytes")));
            }
            self.left = size;
            self.padding = size.next_multiple_of(BLOCK as u64) - size;
            match header.kind() {
                b'x' => extension = Extension::parse(&self.small()?)?,
                b'L' => extension.path = Some(text(&self.small()?)?),
                b'K' => extension.target = Some(text(&self.small()?)?),
                b'g' => drop(self.small()?),
                kind => match self.entry(kind, &header, std::mem::take(&mut extension))? {
                    Some(entry) => return Ok(Some(entry)),
                    None => self.skip()?,
                },
            }
        }
        Ok(None)
    }

    /// Makes something of a header and the extensions before it; `None` for a folder.
    fn entry(&mut self, kind: u8, header: &Header, extension: Extension) -> io::Result<Option<Entry>> {
        let path = clean(&extension.path.map_or_else(|| header.path(), Ok)?)?;
        if kind == b'5' {
            return Ok(None);
        }
        if path.is_empty() || !self.seen.insert(path.clone()) {
            return Err(bad(format!("{path:?} is there twice")));
        }
        if self.seen.len() > MAX_ENTRIES {
            return Err(bad(format!("it has more than {MAX_ENTRIES} entries")));
        }
        match kind {
            b'0' | 0 => Ok(Some(Entry::File { path, size: self.left })),
            b'2' if self.left == 0 => {
                let target = extension.target.map_or_else(|| header.target(), Ok)?;
                match alias(&path, &target) {
                    Some(target) => Ok(Some(Entry::Alias { path, target })),
                    None => Err(bad(format!("{path:?} is a link, to {target:?}"))),
                }
            }
            b'1' | b'2' => Err(bad(format!("{path:?} is a link"))),
            kind => Err(bad(format!("{path:?} is no file, but of type {:?}", char::from(kind)))),
        }
    }

    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut block = [0; BLOCK];
        self.archive.read_exact(&mut block).map_err(cut_short)?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header(block);
        if header.number(148..156)? != header.checksum() {
            return Err(bad("it is no tar archive, or damaged: a header's checksum is wrong"));
        }
        Ok(Some(header))
    }

    /// An extended header's content.
    fn small(&mut self) -> io::Result<Vec<u8>> {
        if self.left > MAX_EXTENSION {
            return Err(bad(format!("a header is {} bytes long", self.left)));
        }
        let mut content = Vec::new();
        self.read_to_end(&mut content)?;
        self.skip()?;
        Ok(content)
    }

    /// Passes over the rest of the current entry.
    fn skip(&mut self) -> io::Result<()> {
        let rest = self.left + self.padding;
        if io::copy(&mut self.archive.by_ref().take(rest), &mut io::sink())? < rest {
            return Err(cut_short(io::ErrorKind::UnexpectedEof.into()));
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }
}

/// The current entry's bytes.
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        let read = self.archive.read(buffer)?;
        if read == 0 {
            return Err(cut_short(io::ErrorKind::UnexpectedEof.into()));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// A path without what means nothing (`./`, a `/` at its end), if it stays within the archive.
fn clean(path: &str) -> io::Result<String> {
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(bad(format!("{path:?} leads out of it")));
    }
    let parts: Vec<_> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    Ok(parts.join("/"))
}

/// Docker used to save a layer that images share once, and `…/layer.tar` as a link to it wherever else
/// it belongs. That is a name in the archive, not one on the disk; any other link is refused.
fn alias(path: &str, target: &str) -> Option<String> {
    let (folder, _) = path.strip_suffix("/layer.tar").map(|folder| (folder, ()))?;
    let mut parts: Vec<_> = folder.split('/').collect();
    for part in target.split('/') {
        match part {
            "" => return None,
            "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// What an extended header says about the entry after it.
#[derive(Default)]
struct Extension {
    path: Option<String>,
    target: Option<String>,
    size: Option<u64>,
}

impl Extension {
    /// Reads pax records: `length key=value\n`, the length in decimal and of the whole record.
    fn parse(mut records: &[u8]) -> io::Result<Self> {
        let broken = || bad("an extended header is broken");
        let mut found = HashMap::new();
        while !records.is_empty() {
            let space = records.iter().position(|byte| *byte == b' ').ok_or_else(broken)?;
            let length = records.get(..space).and_then(|digits| std::str::from_utf8(digits).ok());
            let length: usize = length.and_then(|digits| digits.parse().ok()).ok_or_else(broken)?;
            let record = records.get(space + 1..length).and_then(|record| record.strip_suffix(b"\n"));
            let (key, value) = text(record.ok_or_else(broken)?)?
                .split_once('=')
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .ok_or_else(broken)?;
            if key.starts_with("GNU.sparse") {
                return Err(bad("it holds a sparse file"));
            }
            found.insert(key, value);
            records = records.get(length..).unwrap_or_default();
        }
        let size = found.remove("size").map(|size| size.parse().map_err(|_| broken())).transpose()?;
        Ok(Extension { path: found.remove("path"), target: found.remove("linkpath"), size })
    }
}

/// A header block.
struct Header([u8; BLOCK]);

impl Header {
    fn field(&self, range: std::ops::Range<usize>) -> &[u8] {
        self.0.get(range).unwrap_or_default()
    }

    fn kind(&self) -> u8 {
        self.0[156]
    }

    fn path(&self) -> io::Result<String> {
        let name = text(self.field(0..100))?;
        let prefix = text(self.field(345..500))?;
        let is_posix = self.field(257..263) == b"ustar\0";
        Ok(if is_posix && !prefix.is_empty() { format!("{prefix}/{name}") } else { name })
    }

    fn target(&self) -> io::Result<String> {
        text(self.field(157..257))
    }

    fn size(&self) -> io::Result<u64> {
        self.number(124..136)
    }

    /// A number in octal, or, where that is too short, in binary with the first bit set.
    fn number(&self, range: std::ops::Range<usize>) -> io::Result<u64> {
        let field = self.field(range);
        if let Some((first, rest)) = field.split_first().filter(|(first, _)| **first & 0x80 != 0) {
            let (high, low) = rest.split_at(rest.len().saturating_sub(8));
            if *first != 0x80 || high.iter().any(|byte| *byte != 0) {
                return Err(bad("a number in a header is too large"));
            }
            return Ok(low.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)));
        }
        let digits = text(field)?;
        let digits = digits.trim();
        if digits.is_empty() {
            return Ok(0);
        }
        u64::from_str_radix(digits, 8).map_err(|_| bad(format!("{digits:?} in a header is no number")))
    }

    /// The sum of the block's bytes, its own field counted as blanks.
    fn checksum(&self) -> u64 {
        let counted = |(at, byte): (usize, &u8)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) };
        self.0.iter().enumerate().map(counted).sum()
    }
}

/// A field's text, up to the first NUL.
fn text(field: &[u8]) -> io::Result<String> {
    let until = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let field = field.get(..until).unwrap_or_default();
    String::from_utf8(field.to_vec()).map_err(|_| bad("a name is no UTF-8"))
}

fn bad(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

fn cut_short(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "it is cut short"),
        _ => error,
    }
}

/// Writes an archive. Nothing in it depends on when, where or by whom it is written.
pub(super) struct Writer<W> {
    archive: W,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(archive: W) -> Self {
        Writer { archive }
    }

    pub(super) fn folder(&mut self, path: &str) -> io::Result<()> {
        self.header(b'5', 0o755, &format!("{path}/"), 0)
    }

    /// A file of `size` bytes, which are all that `content` has.
    pub(super) fn file(&mut self, path: &str, size: u64, mut content: impl Read) -> io::Result<()> {
        self.header(b'0', 0o644, path, size)?;
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
            return Err(bad(format!("{path} is not {size} bytes, as it was")));
        }
        self.pad(size)
    }

    /// Ends the archive, and gives back what it was written to.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.archive.write_all(&[0; 2 * BLOCK])?;
        self.archive.flush()?;
        Ok(self.archive)
    }

    fn header(&mut self, kind: u8, mode: u32, path: &str, size: u64) -> io::Result<()> {
        if path.len() > 100 || size >= 1 << 33 {
            self.extension(path, size)?;
        }
        self.block(kind, mode, path, size)
    }

    /// A pax header, for what a ustar header has no room for.
    fn extension(&mut self, path: &str, size: u64) -> io::Result<()> {
        let records = record("path", path) + &record("size", &size.to_string());
        self.block(b'x', 0o644, "pax", records.len() as u64)?;
        self.archive.write_all(records.as_bytes())?;
        self.pad(records.len() as u64)
    }

    fn block(&mut self, kind: u8, mode: u32, path: &str, size: u64) -> io::Result<()> {
        let mut header = Header([0; BLOCK]);
        let mut put = |at: usize, bytes: &[u8]| {
            header.0.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
        };
        put(0, path.as_bytes().get(..path.len().min(100)).unwrap_or_default());
        put(100, format!("{mode:07o}\0{:07o}\0{:07o}\0", 0, 0).as_bytes());
        put(124, format!("{:011o}\0{:011o}\0", size & ((1 << 33) - 1), 0).as_bytes());
        put(156, &[kind]);
        put(257, b"ustar\x0000");
        let checksum = header.checksum();
        header
            .0
            .iter_mut()
            .skip(148)
            .zip(format!("{checksum:06o}\0 ").bytes())
            .for_each(|(to, from)| *to = from);
        self.archive.write_all(&header.0)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        io::copy(&mut io::repeat(0).take(padding), &mut self.archive).map(drop)
    }
}

/// A pax record; its length counts itself.
fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(archive: &[u8]) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut reader = Reader::new(archive);
        let mut found = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            if let Entry::File { path, .. } = entry {
                let mut content = Vec::new();
                reader.read_to_end(&mut content)?;
                found.push((path, content));
            }
        }
        Ok(found)
    }

    #[test]
    fn what_is_written_reads_back_whatever_its_length() {
        let long = format!("blobs/sha512/{}", "a".repeat(128));
        for (path, length) in [("a", 0), ("b/c", 1), ("d", 511), ("e", 512), ("f", 513), (&*long, 70_000)] {
            let content = vec![7; length];
            let mut writer = Writer::new(Vec::new());
            writer.folder("blobs").unwrap();
            writer.file(path, length as u64, &content[..]).unwrap();
            writer.file("last", 4, &b"last"[..]).unwrap();
            let archive = writer.finish().unwrap();
            assert_eq!(archive.len() % BLOCK, 0);
            let found = read_all(&archive).unwrap();
            assert_eq!(found, [(path.to_owned(), content), ("last".to_owned(), b"last".to_vec())]);
        }
    }

    #[test]
    fn an_archive_that_is_cut_anywhere_is_an_error() {
        let mut writer = Writer::new(Vec::new());
        writer.file("a", 600, &[7; 600][..]).unwrap();
        let archive = writer.finish().unwrap();
        for length in 0..BLOCK * 3 {
            assert!(read_all(&archive[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn paths_that_lead_out_and_paths_that_come_twice_are_refused() {
        for paths in [&["/etc/passwd"][..], &["../a"], &["a/../../b"], &["a/.."], &["a", "a"], &["a", "./a"]]
        {
            let mut writer = Writer::new(Vec::new());
            for path in paths {
                writer.file(path, 1, &b"x"[..]).unwrap();
            }
            assert!(read_all(&writer.finish().unwrap()).is_err(), "{paths:?}");
        }
    }

    #[test]
    fn links_devices_and_the_like_are_refused() {
        for kind in [b'1', b'2', b'3', b'4', b'6', b'7', b'S', b'V'] {
            let mut writer = Writer::new(Vec::new());
            writer.block(kind, 0o644, "a", 0).unwrap();
            assert!(read_all(&writer.finish().unwrap()).is_err(), "{}", char::from(kind));
        }
    }

    #[test]
    fn an_alias_of_docker_s_stays_within_the_archive() {
        let cases = [
            ("b/layer.tar", "../a/layer.tar", Some("a/layer.tar")),
            ("b/layer.tar", "../a.tar", Some("a.tar")),
            ("b/layer.tar", "../../a.tar", None),
            ("b/layer.tar", "/a.tar", None),
            ("b/other", "../a.tar", None),
        ];
        for (path, target, expected) in cases {
            assert_eq!(alias(path, target).as_deref(), expected, "{path} -> {target}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>, flips in proptest::collection::vec((0..2048usize, 0..=255u8), 0..4)) {
            let _ = read_all(&bytes);
            let mut writer = Writer::new(Vec::new());
            writer.file(&"long/".repeat(30), 3, &b"abc"[..]).unwrap();
            let mut archive = writer.finish().unwrap();
            for (at, byte) in flips {
                if let Some(place) = archive.get_mut(at) {
                    *place = byte;
                }
            }
            let _ = read_all(&archive);
        }
    }
}
