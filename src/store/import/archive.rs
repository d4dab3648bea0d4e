//! Reads an archive once, from its beginning to its end, because it may be a pipe. Stores each file as a blob at once,
//! under the digest that its bytes have or must have. Which blobs make images is known at the end.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, Read};

use crate::context::PullContext;
#[cfg(feature = "unpack")]
use crate::decoders;
use crate::error::Error;
use crate::image::digest::Digest;
use crate::image::manifest::{Descriptor, MAX_DOCUMENT_BYTES};
use crate::store::import::error::{invalid, unreadable};
use crate::store::import::session::Import;
use crate::store::layout::{self, BLOBS, DOCKER_MANIFEST, INDEX, LAYOUT};
use crate::store::tar;

/// How much of a compressed archive is read at once, bytes.
#[cfg(feature = "unpack")]
const COMPRESSED_READ: usize = 64 << 10;

/// How much is read after the archive's end in a compressed stream, bytes.
const MAX_REST: u64 = 16 << 20;

/// The contents of an archive, besides its blobs.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// The files that describe the others, by their paths.
    documents: HashMap<String, Vec<u8>>,
    /// The other files and links, by their paths.
    files: HashMap<String, File>,
}

#[derive(Debug)]
enum File {
    Blob(Digest, u64),
    /// Another name of the file at this path.
    Alias(String),
}

impl Contents {
    /// Returns one of the files that describe the others.
    pub(super) fn document(&self, path: &str) -> Option<&[u8]> {
        self.documents.get(path).map(Vec::as_slice)
    }

    /// Returns the blob at `path`, or at the path that this is another name of.
    pub(super) fn blob(&self, path: &str) -> Option<(&Digest, u64)> {
        let file = match self.files.get(path)? {
            File::Alias(target) => self.files.get(target)?,
            file => file,
        };
        match file {
            File::Blob(digest, size) => Some((digest, *size)),
            File::Alias(_) => None,
        }
    }

    fn insert(&mut self, path: String, file: File) -> Result<(), Error> {
        if self.documents.contains_key(&path) {
            return Err(twice(&path));
        }
        match self.files.entry(path) {
            Entry::Vacant(place) => drop(place.insert(file)),
            Entry::Occupied(place) => return Err(twice(place.key())),
        }
        Ok(())
    }
}

fn twice(path: &str) -> Error {
    invalid(format!("the archive cannot be used: {path:?} is there twice"))
}

impl Import<'_> {
    /// Puts all files of the archive into the store.
    pub(super) fn unpack(&mut self, archive: impl Read) -> Result<Contents, Error> {
        let cx = self.cx;
        let (archive, is_compressed) =
            decompressed(ContextReader { archive, cx }).map_err(|error| unreadable(cx, error))?;
        let mut contents = Contents::default();
        let mut reader = tar::ArchiveReader::new(archive);
        while let Some(entry) = reader.next_entry().map_err(|error| unreadable(cx, error))? {
            match entry {
                tar::ArchiveEntry::Alias { path, target } => {
                    self.limits.keep(&path)?;
                    self.limits.keep(&target)?;
                    contents.insert(path, File::Alias(target))?;
                }
                tar::ArchiveEntry::File { path, size } => {
                    self.unpack_file(path, size, &mut reader, &mut contents)?
                }
            }
        }
        if is_compressed {
            read_to_end(reader.into_inner()).map_err(|error| unreadable(cx, error))?;
        }
        Ok(contents)
    }

    fn unpack_file(
        &mut self,
        path: String,
        size: u64,
        content: &mut impl Read,
        contents: &mut Contents,
    ) -> Result<(), Error> {
        self.limits.keep(&path)?;
        if matches!(&*path, LAYOUT | INDEX | DOCKER_MANIFEST) {
            if size > MAX_DOCUMENT_BYTES as u64 {
                return Err(invalid(format!(
                    "{path} is {size} bytes long, and more than 4 MiB are not read"
                )));
            }
            let mut text = Vec::new();
            content.read_to_end(&mut text).map_err(|error| unreadable(self.cx, error))?;
            return match contents.documents.insert(path.clone(), text) {
                Some(_) => Err(twice(&path)),
                None => Ok(()),
            };
        }
        // Some builders give layers other names, and file managers leave files among the blobs.
        let named = path
            .strip_prefix(BLOBS)
            .and_then(|rest| rest.strip_prefix('/')?.rsplit_once('/'))
            .and_then(|(algorithm, name)| layout::digest_in(algorithm, name));
        let digest = match named {
            Some(digest) => {
                self.copy(&Descriptor::new("", digest.clone(), size), content)?;
                digest
            }
            None => self.copy_unnamed(size, content)?,
        };
        contents.insert(path, File::Blob(digest, size))
    }
}

/// Reads as long as the context lasts.
struct ContextReader<'a, R> {
    archive: R,
    cx: &'a PullContext,
}

impl<R: Read> Read for ContextReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cx.check().map_err(io::Error::other)?;
        self.archive.read(buffer)
    }
}

/// The first bytes of compressed files, and the programs that decompress them.
const COMPRESSED: [(&[u8], &str, &str); 4] = [
    (b"\x1f\x8b", "gzip", "gzip -dc"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd -dc"),
    (b"\xfd7zXZ\0", "xz", "xz -dc"),
    (b"BZh", "bzip2", "bzip2 -dc"),
];

/// Reads what follows the archive's end in a compressed stream: the stream's checksum is behind it.
///
/// # Errors
/// `InvalidData` for more than 16 MiB; what the decoder fails with.
fn read_to_end(rest: impl Read) -> io::Result<()> {
    match io::copy(&mut rest.take(MAX_REST + 1), &mut io::sink())? > MAX_REST {
        true => Err(io::Error::new(io::ErrorKind::InvalidData, "more than 16 MiB follow its end")),
        false => Ok(()),
    }
}

/// Returns the archive decompressed, and whether it was compressed.
///
/// # Errors
/// `InvalidData` for a compression that is not read, with the command that decompresses it; `Unsupported`
/// for other compressions.
fn decompressed<R: Read>(mut archive: R) -> io::Result<(impl Read, bool)> {
    let mut first = Vec::new();
    archive.by_ref().take(8).read_to_end(&mut first)?;
    for (magic, name, program) in COMPRESSED {
        let is_decoded = cfg!(feature = "unpack") && matches!(name, "gzip" | "zstd");
        if first.starts_with(magic) && !is_decoded {
            let text = format!(
                "it is compressed with {name}, which is not read here: `{program} FILE | oci-puller import -`"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
    }
    let archive = io::Cursor::new(first).chain(archive);
    #[cfg(feature = "unpack")]
    {
        let archive = io::BufReader::with_capacity(COMPRESSED_READ, archive);
        let archive = decoders::decoder(archive, decoders::DEFAULT_ZSTD_WINDOW)?;
        let is_compressed = archive.is_compressed();
        Ok((archive, is_compressed))
    }
    #[cfg(not(feature = "unpack"))]
    Ok((archive, false))
}
