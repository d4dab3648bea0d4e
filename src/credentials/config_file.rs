//! Reads configuration files: hosts.toml, certificates, keys, policies, credential providers.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

/// Reads a file of at most `limit` bytes. A FIFO or a device is refused: opening or reading it may block
/// for ever.
///
/// # Errors
/// Errors of opening and reading; `InvalidInput` if it is not a regular file, `FileTooLarge`.
pub(crate) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {limit} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_read_and_only_to_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("file"), "12345").unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), rustix::fs::FileType::Fifo, Mode::RUSR, 0)
            .unwrap();
        for (name, limit, expected) in [
            ("file", 5, Ok("12345")),
            ("link", 5, Ok("12345")),
            ("file", 4, Err(io::ErrorKind::FileTooLarge)),
            ("fifo", 5, Err(io::ErrorKind::InvalidInput)),
            (".", 5, Err(io::ErrorKind::InvalidInput)),
            ("absent", 5, Err(io::ErrorKind::NotFound)),
        ] {
            let read = read(&path(name), limit).map_err(|error| error.kind());
            assert_eq!(read, expected.map(|text| text.as_bytes().to_vec()), "{name}");
        }
    }
}
