//! Sparse files, headers and records.

use crate::cases::{Add, INVALID, tree};
use crate::layers::{Item, file, flagged, raw, record};

pub(super) fn sparse(case: &mut Add<'_>) {
    let content = [b"a".repeat(4096), b"b".repeat(4096)].concat();
    // 64 KiB of which the first and the last 4 KiB are there.
    let expected = || {
        let file = "file aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa of 65536 sparse";
        tree(&[("after", "file x"), ("s", file)])
    };
    let after = file("after", "x");
    let named = |item: Item| item.pax("GNU.sparse.name", "s");
    let zero =
        file("GNUSparseFile.0/s", &content).pax("GNU.sparse.size", "65536").pax("GNU.sparse.numblocks", "2");
    let pairs = zero
        .clone()
        .pax("GNU.sparse.offset", "0")
        .pax("GNU.sparse.numbytes", "4096")
        .pax("GNU.sparse.offset", "61440")
        .pax("GNU.sparse.numbytes", "4096");
    case("sparse, pax 0.0", &[&[pairs.clone().pax("path", "s"), after.clone()]], expected());
    let map = named(zero.pax("GNU.sparse.map", "0,4096,61440,4096"));
    case("sparse, pax 0.1", &[&[map, after.clone()]], expected());
    let one = |map: &str| {
        let mut text = map.as_bytes().to_vec();
        text.resize(512, 0);
        let item = file("GNUSparseFile.0/s", [text, content.clone()].concat());
        named(item)
            .pax("GNU.sparse.major", "1")
            .pax("GNU.sparse.minor", "0")
            .pax("GNU.sparse.realsize", "65536")
    };
    case("sparse, pax 1.0", &[&[one("2\n0\n4096\n61440\n4096\n"), after.clone()]], expected());
    let old = {
        let mut bytes = file("s", &content).flag(b'S').magic(*b"ustar  \0").bytes();
        for (at, number) in [(386, 0), (398, 4096), (410, 61440), (422, 4096), (483, 65536)] {
            bytes[at..at + 12].copy_from_slice(format!("{number:011o}\0").as_bytes());
        }
        let sum: u32 = bytes[..512]
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
            .sum();
        bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        raw(bytes)
    };
    case("sparse, in the header", &[&[old, after.clone()]], expected());
    for map in [
        "3\n0\n4096\n61440\n4096\n",
        "2\n0\n4096\n1024\n4096\n",
        "2\n0\n4096\n65000\n4096\n",
        "2\n0\n4096\n61440\n1\n",
        "x\n",
        "99999999999999999999\n",
        "",
    ] {
        case("a sparse map that is broken", &[&[one(map)]], INVALID);
    }
    case(
        "a sparse file of an unknown version",
        &[&[file("s", "x").pax("GNU.sparse.major", "2").pax("GNU.sparse.minor", "0")]],
        INVALID,
    );
    case(
        "a sparse file that is all hole",
        &[&[named(file("g", "").pax("GNU.sparse.size", "1048576").pax("GNU.sparse.map", ""))]],
        tree(&[(
            "s",
            r"file \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00 of 1048576 sparse",
        )]),
    );
}

pub(super) fn headers(case: &mut Add<'_>) {
    case(
        "the size of a record counts",
        &[&[file("a", "abc").size(0).pax("size", "3"), file("b", "x")]],
        tree(&[("a", "file abc"), ("b", "file x")]),
    );
    let smuggled = [file("evil", "").bytes(), vec![0; 512]].concat();
    case(
        "an entry in another's content",
        &[&[file("a", smuggled).pax("size", "0"), file("b", "x")]],
        INVALID,
    );
    case(
        "bytes after the end",
        &[&[file("a", "x"), raw([0; 1024]), file("b", "x")]],
        tree(&[("a", "file x")]),
    );
    case("one block of zeros", &[&[file("a", "x"), raw([0; 512]), file("b", "x")]], INVALID);
    case(
        "a checksum that is wrong",
        &[&[raw({
            let mut bytes = file("a", "").bytes();
            bytes[148..154].copy_from_slice(b"000000");
            bytes
        })]],
        INVALID,
    );
    case("noise", &[&[raw([7; 512])]], INVALID);
    case("records without an entry", &[&[flagged(b'x', "pax", "9 path=a\n")]], INVALID);
    case("records twice", &[&[flagged(b'x', "pax", "9 path=a\n"), file("z", "x").pax("path", "b")]], INVALID);
    case("a record that is broken", &[&[flagged(b'x', "pax", "99 path=a\n"), file("z", "x")]], INVALID);
    case("records of more than a MiB", &[&[file("a", "x").pax("comment", vec![b'x'; 1 << 20])]], INVALID);
    let many: Vec<u8> = (0..40).flat_map(|at| record("comment", format!("{at}").as_bytes())).collect();
    case(
        "records that mean nothing",
        &[&[flagged(b'x', "pax", std::str::from_utf8(&many).unwrap()), file("z", "x")]],
        tree(&[("z", "file x")]),
    );
}
