//! Hashes the content of a file.

use crate::context::PullContext;
use crate::durable::DiskFile;
use crate::error::Error;
use crate::image::digest::Hasher;
use crate::store::error::refused;

/// How much is read at once, bytes.
pub(in crate::store) const READ: usize = 128 << 10;

/// Hashes the file's first `len` bytes, or fewer if it ends before: how many there were.
pub(super) fn hash_file(
    cx: &PullContext,
    file: &dyn DiskFile,
    len: u64,
    hasher: &mut Hasher,
    doing: &str,
) -> Result<u64, Error> {
    let mut buffer = vec![0; usize::try_from(len).unwrap_or(READ).min(READ)];
    let mut offset = 0;
    while offset < len {
        cx.check()?;
        let read = file.read_at(&mut buffer, offset).map_err(|error| refused(&error, doing))?;
        let wanted = usize::try_from(len - offset).unwrap_or(read).min(read);
        match buffer.get(..wanted) {
            None | Some([]) => break,
            Some(bytes) => hasher.update(bytes),
        }
        offset += wanted as u64;
    }
    Ok(offset)
}
