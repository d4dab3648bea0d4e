//! Reads an archive, entry by entry.

use std::io::{self, BufRead, Read};

use super::block::{BLOCK, cut_short, decimal, invalid};
use super::header::{Header, Kind, Time, text};
use super::pax::{self, Extension};
use super::sparse::{self, Layout, Segment};

/// The longest extended header, long name or map of a sparse file that is read, bytes.
const MAX_EXTENSION: u64 = 1 << 20;
/// How many global headers may stand before an entry.
const MAX_GLOBALS: usize = 100;

/// Reads an archive entry by entry. Between two entries it reads, as [`BufRead`], the content of the
/// first. What comes out may be anything that an attacker wants.
pub(crate) struct Reader<R> {
    archive: R,
    /// Bytes of the current entry that are still to be read, and of its padding.
    left: u64,
    padding: u64,
    /// Whether the blocks that mark the archive's end were read.
    is_marked: bool,
}

/// An entry: its header, and what the extended headers before it say.
pub(crate) struct Entry {
    kind: Kind,
    path: Vec<u8>,
    link: Vec<u8>,
    size: u64,
    segments: Option<Vec<Segment>>,
    header: Header,
    extension: Extension,
}

impl<R: BufRead> Reader<R> {
    pub(crate) fn new(archive: R) -> Self {
        Reader { archive, left: 0, padding: 0, is_marked: false }
    }

    /// The next entry; `None` at the archive's end: two blocks of zeros, or no more bytes. What is left
    /// of the entry before it is passed over.
    ///
    /// # Errors
    /// `InvalidData` for a header that is broken; `UnexpectedEof` if the archive is cut short; what the
    /// archive fails with.
    pub(crate) fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        self.skip()?;
        let (mut extension, mut long_path, mut long_link) = (None, None, None);
        let mut globals = 0;
        while let Some(header) = self.next_header()? {
            let twice = || invalid("an entry has two extended headers of one kind");
            match header.flag() {
                b'g' => {
                    globals += 1;
                    if globals > MAX_GLOBALS {
                        return Err(invalid(format!(
                            "more than {MAX_GLOBALS} global headers follow one another"
                        )));
                    }
                    self.enter(header.size()?)?;
                    self.skip()?;
                }
                b'x' => {
                    let records = self.small(header.size()?)?;
                    if extension.replace(Extension::parse(&records)?).is_some() {
                        return Err(twice());
                    }
                }
                b'L' | b'K' => {
                    let long = text(&self.small(header.size()?)?).to_vec();
                    let slot = if header.flag() == b'L' { &mut long_path } else { &mut long_link };
                    if slot.replace(long).is_some() {
                        return Err(twice());
                    }
                }
                _ => {
                    let mut extension = extension.unwrap_or_default();
                    let sparse_name = extension.sparse.name.take();
                    extension.path = sparse_name.or(extension.path).or(long_path);
                    extension.link = extension.link.or(long_link);
                    return self.entry(header, extension).map(Some);
                }
            }
        }
        if extension.is_some() || long_path.is_some() || long_link.is_some() {
            return Err(invalid("an extended header has no entry after it"));
        }
        Ok(None)
    }

    /// Whether the archive ended as it should, with blocks of zeros.
    pub(crate) fn is_marked(&self) -> bool {
        self.is_marked
    }

    /// What the archive was read from.
    pub(crate) fn into_inner(self) -> R {
        self.archive
    }

    fn entry(&mut self, header: Header, mut extension: Extension) -> io::Result<Entry> {
        let path = extension.path.take().unwrap_or_else(|| header.path());
        let link = extension.link.take().unwrap_or_else(|| header.link().to_vec());
        let kind = match header.flag() {
            0 if path.ends_with(b"/") => Kind::Dir,
            b'0' | b'7' | b'S' | 0 => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            flag => Kind::Unknown(flag),
        };
        let mut entry = Entry { kind, path, link, size: 0, segments: None, header, extension };
        // Only files have content: in other headers the size means nothing.
        if matches!(kind, Kind::File | Kind::Unknown(_)) {
            let stored = entry.extension.size.take().map_or_else(|| entry.header.size(), Ok)?;
            self.enter(stored)?;
            entry.size = stored;
            self.read_map(&mut entry)?;
        }
        Ok(entry)
    }

    /// Reads the map of a sparse file, wherever it is.
    fn read_map(&mut self, entry: &mut Entry) -> io::Result<()> {
        let records = std::mem::take(&mut entry.extension.sparse);
        let (size, segments) = if entry.header.flag() == b'S' {
            (sparse::header_size(&entry.header)?, self.header_map(&entry.header)?)
        } else {
            match records.layout()? {
                None => return Ok(()),
                Some(Layout::Known { size, segments }) => (size, segments),
                Some(Layout::InContent { size }) => (size, self.content_map()?),
            }
        };
        sparse::check(&segments, size, self.left)?;
        (entry.size, entry.segments) = (size, Some(segments));
        Ok(())
    }

    /// The map in a header of type `S`, which may go on in blocks of its own before the content.
    fn header_map(&mut self, header: &Header) -> io::Result<Vec<Segment>> {
        let (mut segments, mut goes_on) = sparse::header_segments(&header.0, true)?;
        while goes_on {
            if segments.len() as u64 * 24 > MAX_EXTENSION {
                return Err(invalid("the map of a sparse file is too long"));
            }
            let block = self.block()?.ok_or_else(cut_short)?;
            let (more, again) = sparse::header_segments(&block, false)?;
            if more.is_empty() {
                return Err(sparse::broken());
            }
            segments.extend(more);
            goes_on = again;
        }
        Ok(segments)
    }

    /// The map before the content, in whole blocks of text. Its first line says how many follow.
    fn content_map(&mut self) -> io::Result<Vec<Segment>> {
        let (mut map, mut lines, mut wanted) = (Vec::new(), 0, None);
        while wanted.is_none_or(|wanted| lines < wanted) {
            if self.left < BLOCK as u64 || map.len() as u64 >= MAX_EXTENSION {
                return Err(sparse::broken());
            }
            let mut block = [0; BLOCK];
            self.read_exact(&mut block)?;
            map.extend_from_slice(&block);
            lines += block.iter().filter(|byte| **byte == b'\n').count() as u64;
            if wanted.is_none() && lines > 0 {
                wanted = Some(sparse::lines_of_map(&map)?);
            }
        }
        sparse::parse_map(&map)
    }

    /// The next header; `None` at the archive's end.
    fn next_header(&mut self) -> io::Result<Option<Header>> {
        let Some(block) = self.block()? else { return Ok(None) };
        if let Some(header) = Header::parse(block)? {
            return Ok(Some(header));
        }
        match self.block()? {
            Some(block) if block.iter().any(|byte| *byte != 0) => {
                Err(invalid("a block of zeros stands between two headers"))
            }
            _ => {
                self.is_marked = true;
                Ok(None)
            }
        }
    }

    /// The next block; `None` if there are no more bytes.
    fn block(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.archive.read(rest) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(cut_short()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(block))
    }

    fn enter(&mut self, size: u64) -> io::Result<()> {
        if size > i64::MAX.unsigned_abs() {
            return Err(invalid(format!("an entry claims {size} bytes")));
        }
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    /// An extended header's content.
    fn small(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            return Err(invalid(format!("an extended header is {size} bytes long")));
        }
        self.enter(size)?;
        let mut content = Vec::new();
        self.read_to_end(&mut content)?;
        self.skip()?;
        Ok(content)
    }

    /// Passes over the rest of the current entry.
    fn skip(&mut self) -> io::Result<()> {
        let mut rest = self.left + self.padding;
        while rest > 0 {
            let there = self.archive.fill_buf()?.len();
            if there == 0 {
                return Err(cut_short());
            }
            let passed = usize::try_from(rest).unwrap_or(usize::MAX).min(there);
            self.archive.consume(passed);
            rest -= passed as u64;
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }
}

/// The current entry's bytes.
impl<R: BufRead> BufRead for Reader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let there = self.archive.fill_buf()?;
        if there.is_empty() {
            return Err(cut_short());
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(there.len());
        Ok(there.get(..most).unwrap_or_default())
    }

    fn consume(&mut self, read: usize) {
        self.left = self.left.saturating_sub(read as u64);
        self.archive.consume(read);
    }
}

impl<R: BufRead> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl Entry {
    /// What it is. A file's content is read from the [`Reader`].
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Its path, as the archive has it.
    pub(crate) fn path(&self) -> &[u8] {
        &self.path
    }

    /// What a link leads to.
    pub(crate) fn link(&self) -> &[u8] {
        &self.link
    }

    /// The file's size, bytes; of a sparse one with its holes. Zero for what is no file.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The parts that the archive holds of a sparse file, one after the other; `None` if it is whole.
    pub(crate) fn segments(&self) -> Option<&[Segment]> {
        self.segments.as_deref()
    }

    /// The permission bits, with set-id and sticky bits.
    pub(crate) fn mode(&self) -> io::Result<u32> {
        self.header.mode()
    }

    /// The owner's id.
    pub(crate) fn uid(&self) -> io::Result<u64> {
        self.extension.uid.as_deref().map_or_else(|| self.header.uid(), decimal)
    }

    /// The group's id.
    pub(crate) fn gid(&self) -> io::Result<u64> {
        self.extension.gid.as_deref().map_or_else(|| self.header.gid(), decimal)
    }

    /// When the content was last changed.
    pub(crate) fn mtime(&self) -> io::Result<Time> {
        self.extension.mtime.as_deref().map_or_else(|| self.header.mtime(), pax::time)
    }

    /// The major and minor number of a device.
    pub(crate) fn device(&self) -> io::Result<(u64, u64)> {
        self.header.device()
    }

    /// The names and values of extended attributes.
    pub(crate) fn xattrs(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &self.extension.xattrs
    }
}
