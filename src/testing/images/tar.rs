//! A tar archive with one file, by hand; the ustar format of
//! [POSIX](https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html#tag_20_94_13_06).

const BLOCK: usize = 512;

/// Returns an archive with one file of `size` pseudo-random bytes, named by the seed.
pub(super) fn one_file(seed: u64, size: usize) -> Vec<u8> {
    let padded = size.div_ceil(BLOCK) * BLOCK;
    let mut archive = vec![0; BLOCK + padded + 2 * BLOCK];
    let (head, rest) = archive.split_at_mut(BLOCK);
    head.copy_from_slice(&header(&format!("data/{seed:016x}"), size));
    fastrand::Rng::with_seed(seed).fill(&mut rest[..size]);
    archive
}

fn header(name: &str, size: usize) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0"); // mode
    put(108, "0000000\0"); // user
    put(116, "0000000\0"); // group
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0"); // modification time
    put(148, "        "); // the checksum counts itself as spaces
    put(156, "0"); // a regular file
    put(257, "ustar\x0000");
    let checksum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{checksum:06o}\0 ").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_padded_to_whole_blocks() {
        for (size, length) in [(0, 1536), (1, 2048), (512, 2048), (513, 2560)] {
            assert_eq!(one_file(1, size).len(), length, "{size}");
        }
    }

    #[test]
    fn tar_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("layer.tar");
        std::fs::write(&file, one_file(7, 1000)).unwrap();
        let Ok(listing) = std::process::Command::new("tar").arg("-tvf").arg(&file).output() else { return };
        let text = String::from_utf8_lossy(&listing.stdout).into_owned();
        assert!(
            listing.status.success() && text.contains("1000") && text.contains("0000000000000007"),
            "{text}"
        );
    }
}
