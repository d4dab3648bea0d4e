//! Compressed archives: the formats, and their checksums.

use oci_puller::{ErrorKind, PullContext};

use crate::made::{Machine, Made, gzip};

const NAME: &str = "docker.io/library/app:1";

fn import(archive: &[u8]) -> (Machine, Result<Vec<String>, oci_puller::Error>) {
    let machine = Machine::new("linux/amd64");
    let outcome = machine.store.import(&PullContext::new(), archive);
    if outcome.is_err() {
        assert_eq!(machine.blobs(), 0, "nothing is left");
    }
    (machine, outcome)
}

/// Returns a zstd frame of raw blocks.
fn zstd(content: &[u8]) -> Vec<u8> {
    let mut file = b"\x28\xb5\x2f\xfd\xa0".to_vec();
    file.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
    let mut blocks = content.chunks(100_000).peekable();
    while let Some(block) = blocks.next() {
        let head = u32::try_from(block.len()).unwrap() << 3 | u32::from(blocks.peek().is_none());
        file.extend(&head.to_le_bytes()[..3]);
        file.extend(block);
    }
    file
}

#[test]
fn compressed_archives_are_read_or_the_error_names_the_command() {
    let mut made = Made::default();
    let image = made.image("linux/amd64");
    made.list(&image.descriptor, Some(NAME));
    let archive = made.archive();
    let is_read = cfg!(feature = "unpack");
    let (gzipped, framed) = (gzip(&archive), zstd(&archive));
    // A skippable frame before it, and two members in a row, as pzstd and pigz write them.
    let skipped = [&b"\x50\x2a\x4d\x18\x04\0\0\0\x01\x02\x03\x04"[..], &framed].concat();
    let (first, rest) = archive.split_at(700);
    let members = [gzip(first), gzip(rest)].concat();
    for (command, bytes) in [("gzip -dc", &gzipped), ("gzip -dc", &members), ("zstd -dc", &framed)] {
        let (machine, outcome) = import(bytes);
        match is_read {
            true => {
                assert_eq!(outcome.unwrap(), [NAME], "{command}");
                assert_eq!(machine.found(NAME), Some(image.manifest.clone()));
            }
            false => {
                let error = outcome.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidManifest);
                assert!(error.to_string().contains(command), "{error}");
            }
        }
        // One that is cut short, wherever, is refused.
        for length in [1, 9, 20, 600, bytes.len() / 2] {
            assert_eq!(
                import(&bytes[..length]).1.unwrap_err().kind(),
                ErrorKind::InvalidManifest,
                "{length}"
            );
        }
    }
    assert_eq!(import(&skipped).1.is_ok(), is_read);
    for (command, bytes) in [("xz -dc", &b"\xfd7zXZ\0\0\x04"[..]), ("bzip2 -dc", b"BZh91AY&SY")] {
        let error = import(bytes).1.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidManifest);
        assert!(error.to_string().contains(command), "{error}");
    }
}

#[test]
#[cfg(feature = "unpack")]
fn a_compressed_archive_is_checked_behind_its_last_entry() {
    let mut made = Made::default();
    let image = made.image("linux/amd64");
    made.list(&image.descriptor, Some(NAME));
    let archive = made.archive();
    let sum_is_wrong = {
        let mut file = gzip(&archive);
        let sum = file.len() - 8;
        file[sum] ^= 1;
        file
    };
    let padded = |bytes: usize| gzip(&[&archive[..], &vec![0; bytes]].concat());
    let cases = [
        ("padded as tar does", padded(10 << 10), true),
        ("a wrong checksum", sum_is_wrong, false),
        ("a cut in the checksum", gzip(&archive)[..gzip(&archive).len() - 5].to_vec(), false),
        ("bytes behind it", [gzip(&archive), b"more".to_vec()].concat(), false),
        ("too much padding", padded(17 << 20), false),
    ];
    for (told, file, is_sound) in cases {
        let (machine, outcome) = import(&file);
        assert_eq!(outcome.is_ok(), is_sound, "{told}");
        assert_eq!(machine.blobs() > 0, is_sound, "{told}");
    }
}
