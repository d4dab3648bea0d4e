//! What an image archive may hold: regular files and folders. Nothing is ever unpacked to a path that an
//! archive names.

use std::io::{self, BufReader, Read};

use crate::tar::{self, Kind};

pub(super) use crate::tar::Writer;

/// How many entries an archive may have.
const MAX_ENTRIES: usize = 100_000;
/// How many folders.
const MAX_FOLDERS: usize = 100_000;
/// Bytes that are read at once.
const READ: usize = 256 << 10;

/// Reads an image archive entry by entry. What comes out is safe to use as a key, and may be anything
/// else that an attacker wants.
pub(super) struct ArchiveReader<R> {
    archive: tar::Reader<BufReader<R>>,
    entries: usize,
    folders: usize,
}

/// What an archive holds under a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ArchiveEntry {
    /// A file of so many bytes; they are read from the [`ArchiveReader`] itself.
    File { path: String, size: u64 },
    /// Another name of a file in the archive.
    Alias { path: String, target: String },
}

impl<R: Read> ArchiveReader<R> {
    pub(super) fn new(archive: R) -> Self {
        let archive = tar::Reader::new(BufReader::with_capacity(READ, archive));
        ArchiveReader { archive, entries: 0, folders: 0 }
    }

    /// Returns the next file or alias; `None` at the archive's end. Folders are passed over.
    ///
    /// # Errors
    /// `InvalidData` for whatever an image archive has no use for: absolute paths, `..`, links,
    /// devices, sparse files, too many entries. `UnexpectedEof` if it is cut short. A path that comes
    /// twice is for the caller to find.
    pub(super) fn next_entry(&mut self) -> io::Result<Option<ArchiveEntry>> {
        while let Some(entry) = self.archive.next_entry()? {
            if let Some(entry) = self.checked(&entry)? {
                return Ok(Some(entry));
            }
        }
        // The end of the bytes alone may be a cut between two entries.
        match self.archive.is_marked() {
            true => Ok(None),
            false => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is cut short")),
        }
    }

    /// Returns what the archive is read from, after its end.
    pub(super) fn into_inner(self) -> impl Read {
        self.archive.into_inner()
    }

    /// Makes something of an entry; `None` for a folder.
    fn checked(&mut self, entry: &tar::Entry) -> io::Result<Option<ArchiveEntry>> {
        let path = clean(&text(entry.path())?)?;
        let (counted, most) = match entry.kind() {
            Kind::Dir => (&mut self.folders, MAX_FOLDERS),
            _ => (&mut self.entries, MAX_ENTRIES),
        };
        *counted += 1;
        if *counted > most {
            return Err(bad(format!("it has more than {most} entries")));
        }
        if entry.kind() == Kind::Dir {
            return Ok(None);
        }
        if path.is_empty() {
            return Err(bad("an entry has no name"));
        }
        match entry.kind() {
            Kind::File if entry.segments().is_some() => Err(bad("it holds a sparse file")),
            Kind::File => Ok(Some(ArchiveEntry::File { path, size: entry.size() })),
            Kind::Symlink => {
                let target = text(entry.link())?;
                match alias(&path, &target) {
                    Some(target) => Ok(Some(ArchiveEntry::Alias { path, target })),
                    None => Err(bad(format!("{path:?} is a link, to {target:?}"))),
                }
            }
            Kind::HardLink => Err(bad(format!("{path:?} is a link"))),
            kind => Err(bad(format!("{path:?} is no file, but {kind:?}"))),
        }
    }
}

/// The current entry's bytes.
impl<R: Read> Read for ArchiveReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.archive.read(buffer)
    }
}

/// Returns a path without `./` and a `/` at its end, if it stays within the archive.
fn clean(path: &str) -> io::Result<String> {
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(bad(format!("{path:?} leads out of it")));
    }
    let parts: Vec<_> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    Ok(parts.join("/"))
}

/// Returns the path in the archive that a link stands for. Docker before 25 saves a layer that images share
/// once, and links to it as `…/layer.tar` for the other images. Any other link is refused.
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

fn text(bytes: &[u8]) -> io::Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| bad("a name is no UTF-8"))
}

fn bad(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 512;

    fn read_all(archive: &[u8]) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut reader = ArchiveReader::new(archive);
        let mut found = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            if let ArchiveEntry::File { path, .. } = entry {
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
    fn paths_that_lead_out_are_refused() {
        for path in ["/etc/passwd", "../a", "a/../../b", "a/..", ".", "./"] {
            let mut writer = Writer::new(Vec::new());
            writer.file(path, 1, &b"x"[..]).unwrap();
            assert!(read_all(&writer.finish().unwrap()).is_err(), "{path:?}");
        }
    }

    #[test]
    fn an_archive_without_an_end_is_refused() {
        /// The same header for ever.
        struct Endless(Vec<u8>, usize);
        impl Read for Endless {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                for byte in buffer.iter_mut() {
                    *byte = self.0[self.1 % self.0.len()];
                    self.1 += 1;
                }
                Ok(buffer.len())
            }
        }
        for flag in *b"0xgLK5" {
            let mut writer = Writer::new(Vec::new());
            let size = if matches!(flag, b'0' | b'5') { 0 } else { 512 };
            writer
                .header(&tar::HeaderFields { flag, path: b"a", size, ..tar::HeaderFields::default() })
                .unwrap();
            let mut block = writer.finish().unwrap();
            block.truncate(BLOCK);
            // The record of an extended header.
            let mut record = b"512 comment=".to_vec();
            record.resize(if size == 0 { 0 } else { BLOCK - 1 }, b'a');
            record.extend((size > 0).then_some(b'\n'));
            block.extend(record);
            let mut reader = ArchiveReader::new(Endless(block, 0));
            let ended = loop {
                match reader.next_entry() {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("{} ends", char::from(flag)),
                    Err(error) => break error,
                }
            };
            assert_eq!(ended.kind(), io::ErrorKind::InvalidData, "{}: {ended}", char::from(flag));
        }
    }

    #[test]
    fn links_devices_and_the_like_are_refused() {
        for flag in [b'1', b'2', b'3', b'4', b'6', b'S', b'V'] {
            let mut writer = Writer::new(Vec::new());
            writer.header(&tar::HeaderFields { flag, path: b"a", ..tar::HeaderFields::default() }).unwrap();
            assert!(read_all(&writer.finish().unwrap()).is_err(), "{}", char::from(flag));
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
