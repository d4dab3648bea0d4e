//! Writing and reading whole files.

use std::io;

use crate::durable::disk::{Disk, DiskFile, Flush, Metadata, OpenMode};

/// Replaces the file at `path` as a whole: a reader finds the old content or the new one, after a power
/// cut as well. `temp` is another path on the same file system, which one writer uses at a time.
pub(crate) fn replace(disk: &dyn Disk, path: &str, temp: &str, bytes: &[u8], flush: Flush) -> io::Result<()> {
    write_new(disk, temp, bytes, flush)?;
    put_in_place(disk, temp, path)?;
    match flush {
        Flush::Wait => disk.sync_dir(parent(path)),
        Flush::Skip => Ok(()),
    }
}

/// Does the first step of [`replace`]: writes the new content at `temp`, and returns the file's metadata.
pub(crate) fn write_new(disk: &dyn Disk, temp: &str, bytes: &[u8], flush: Flush) -> io::Result<Metadata> {
    let write = || {
        remove(disk, temp)?;
        let file = disk.open(temp, OpenMode::CreatePublic)?;
        file.write_at(bytes, 0)?;
        if flush == Flush::Wait {
            file.sync()?;
        }
        file.metadata()
    };
    write().inspect_err(|_| drop(disk.unlink(temp)))
}

/// Removes the file at `path`, if there is one: it may be a link to another file.
pub(crate) fn remove(disk: &dyn Disk, path: &str) -> io::Result<()> {
    match disk.unlink(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Does the second step of [`replace`]. The caller flushes the folder.
pub(crate) fn put_in_place(disk: &dyn Disk, temp: &str, path: &str) -> io::Result<()> {
    disk.rename(temp, path).inspect_err(|_| drop(disk.unlink(temp)))
}

/// Makes the folder at `path` and its missing parents, each durable before anything is put into it.
pub(crate) fn create_dirs(disk: &dyn Disk, path: &str, flush: Flush) -> io::Result<()> {
    match disk.create_dir(path) {
        Ok(()) => {}
        // Another process may have made it, and not have flushed it yet.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound && !parent(path).is_empty() => {
            create_dirs(disk, parent(path), flush)?;
            return create_dirs(disk, path, flush);
        }
        Err(error) => return Err(error),
    }
    match flush {
        Flush::Wait => disk.sync_dir(parent(path)),
        Flush::Skip => Ok(()),
    }
}

/// Returns the path of the folder that `path` is in; `""` for the disk's own.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Reads the whole file.
///
/// # Errors
/// `InvalidData` if it is longer than `limit` bytes; `UnexpectedEof` if it shrinks meanwhile.
pub(crate) fn read_limited(file: &dyn DiskFile, limit: u64) -> io::Result<Vec<u8>> {
    let len = file.metadata()?.len;
    if len > limit {
        let text = format!("{len} bytes, and more than {limit} are not read");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, filled as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
    }
    Ok(bytes)
}
