//! How layers are compressed, cut short, and compared with their diff_ids.

use oci_puller::ErrorKind;
use oci_puller::image::Digest;

use crate::layers::{Blob, TAR, TAR_GZIP, TAR_ZSTD, file, gzip, image, image_with, tar, zstd};

fn outcome(media_type: &'static str, bytes: Vec<u8>, tar: &[u8]) -> Result<(), ErrorKind> {
    let dir = tempfile::tempdir().unwrap();
    let blob = Blob { media_type, bytes, diff_id: Digest::sha256(tar) };
    let (store, image) = image(&dir.path().join("store"), &[blob]);
    let root = dir.path().join("root");
    store.unpack(&image).into_dir(&root).map_err(|error| error.kind())?;
    assert_eq!(std::fs::read(root.join("a")).unwrap(), vec![b'y'; 100_000]);
    Ok(())
}

pub(crate) fn compression_is_detected_from_the_first_bytes() {
    let plain = tar(&[file("a", vec![b'y'; 100_000])]);
    let (half, rest) = plain.split_at(1024);
    let skippable = b"\x50\x2a\x4d\x18\x04\0\0\0skip".to_vec();
    let good = [
        (TAR, plain.clone()),
        (TAR_GZIP, plain.clone()),
        (TAR_GZIP, gzip(&plain)),
        (TAR_GZIP, zstd(&plain)),
        (TAR_ZSTD, zstd(&plain)),
        (TAR, gzip(&plain)),
        (TAR_GZIP, [gzip(half), gzip(&[]), gzip(rest)].concat()),
        (TAR_ZSTD, [zstd(half), skippable.clone(), zstd(rest), skippable.clone()].concat()),
        (TAR_ZSTD, [skippable, zstd(&plain)].concat()),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", gzip(&plain)),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", gzip(&plain)),
    ];
    for (at, (media_type, bytes)) in good.into_iter().enumerate() {
        assert_eq!(outcome(media_type, bytes, &plain), Ok(()), "{at}");
    }
}

pub(crate) fn broken_streams_are_refused() {
    let plain = tar(&[file("a", vec![b'y'; 100_000])]);
    let (gzipped, zstded) = (gzip(&plain), zstd(&plain));
    let with = |mut bytes: Vec<u8>, at: usize| {
        bytes[at] ^= 1;
        bytes
    };
    let cut = |bytes: &[u8], by: usize| bytes[..bytes.len() - by].to_vec();
    let cases = [
        ("gzip, cut", cut(&gzipped, 5000), ErrorKind::InvalidLayer),
        ("gzip, cut in the sum", cut(&gzipped, 3), ErrorKind::InvalidLayer),
        ("gzip, sum", with(gzipped.clone(), gzipped.len() - 8), ErrorKind::InvalidLayer),
        ("gzip, length", with(gzipped.clone(), gzipped.len() - 1), ErrorKind::InvalidLayer),
        ("gzip, bytes behind", [&gzipped[..], b"junk"].concat(), ErrorKind::InvalidLayer),
        ("gzip, zeros behind", [&gzipped[..], &[0; 512]].concat(), ErrorKind::InvalidLayer),
        ("gzip, half a magic behind", [&gzipped[..], b"\x1f"].concat(), ErrorKind::InvalidLayer),
        ("zstd, cut", cut(&zstded, 5000), ErrorKind::InvalidLayer),
        ("zstd, bytes behind", [&zstded[..], b"junkjunk"].concat(), ErrorKind::InvalidLayer),
        ("tar, cut in a file", cut(&plain, 5000), ErrorKind::InvalidLayer),
        ("tar, cut in a block", cut(&plain, 100), ErrorKind::InvalidLayer),
        ("xz", b"\xfd7zXZ\0rest".to_vec(), ErrorKind::Unsupported),
        ("bzip2", b"BZh9rest".to_vec(), ErrorKind::Unsupported),
        ("lz4", b"\x04\x22\x4d\x18rest".to_vec(), ErrorKind::Unsupported),
    ];
    for (name, bytes, kind) in cases {
        assert_eq!(outcome(TAR_GZIP, bytes, &plain), Err(kind), "{name}");
    }
}

pub(crate) fn a_tar_may_end_at_the_end_of_an_entry() {
    let whole = tar(&[file("a", vec![b'y'; 100_000])]);
    for end in [0, 512, 1024] {
        let bytes = whole[..whole.len() - 1024 + end].to_vec();
        assert_eq!(outcome(TAR, bytes.clone(), &bytes), Ok(()), "{end}");
    }
    let padded = [&whole[..], &[0; 10_240], b"anything"].concat();
    assert_eq!(outcome(TAR_GZIP, gzip(&padded), &padded), Ok(()));
}

pub(crate) fn a_large_zstd_window_needs_a_setting() {
    let plain = tar(&[file("a", vec![b'y'; 100_000])]);
    // 64 MiB.
    let mut bytes = zstd(&plain);
    bytes[5] = 0x80;
    assert_eq!(outcome(TAR_ZSTD, bytes.clone(), &plain), Err(ErrorKind::Unsupported));
    let dir = tempfile::tempdir().unwrap();
    let blob = Blob { media_type: TAR_ZSTD, bytes, diff_id: Digest::sha256(&plain) };
    let (store, image) = image(&dir.path().join("store"), &[blob]);
    let error = store.unpack(&image).into_dir(dir.path().join("root")).unwrap_err();
    assert!(error.message().contains("67108864 bytes") && error.message().contains("zstd_window"), "{error}");
    store.unpack(&image).zstd_window(64 << 20).into_dir(dir.path().join("other")).unwrap();
}

pub(crate) fn diff_ids_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    let blob = || Blob::gzip(tar(&[file("a", "x")]));
    let other = Digest::sha256(b"other").to_string();
    let cases = [
        (vec![other], ErrorKind::DigestMismatch),
        (vec![], ErrorKind::InvalidManifest),
        (vec![blob().diff_id.to_string(); 2], ErrorKind::InvalidManifest),
    ];
    for (at, (diff_ids, kind)) in cases.into_iter().enumerate() {
        let (store, image) = image_with(&dir.path().join(format!("store-{at}")), &[blob()], &diff_ids);
        let root = dir.path().join(format!("root-{at}"));
        let error = store.unpack(&image).into_dir(&root).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}

pub(crate) fn layers_whose_media_type_is_no_tar_are_refused() {
    let plain = tar(&[file("a", vec![b'y'; 100_000])]);
    for media_type in [
        "application/octet-stream",
        "application/vnd.wasm.content.layer.v1+wasm",
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "application/vnd.oci.image.layer.v1.tar+bzip2",
    ] {
        assert_eq!(outcome(media_type, plain.clone(), &plain), Err(ErrorKind::Unsupported), "{media_type}");
    }
}
