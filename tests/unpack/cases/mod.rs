//! Small images, and the tree that each makes, or the kind of error that refuses it.

mod archives;
mod links;
mod markers;
mod metadata;

use oci_puller::ErrorKind;

use crate::layers::{Item, block_device, char_device, dir, fifo, file, flagged, hard_link, symlink};

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) layers: Vec<Vec<Item>>,
    pub(crate) expected: Expected,
}

pub(crate) enum Expected {
    /// The lines of [`tree`](crate::tree::tree), but for a root that is as usual.
    Tree(Vec<(&'static str, &'static str)>),
    Refused(ErrorKind),
}

const INVALID: Expected = Expected::Refused(ErrorKind::InvalidLayer);
const UNSUPPORTED: Expected = Expected::Refused(ErrorKind::Unsupported);
/// A capability as `setcap` writes it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// What leads out of every root.
const OUT: &str = "../../../../../../../../tmp/oci-puller-test-outside";

fn tree(lines: &[(&'static str, &'static str)]) -> Expected {
    Expected::Tree(lines.to_vec())
}

pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |name, layers: &[&[Item]], expected| {
        let layers = layers.iter().map(|layer| layer.to_vec()).collect();
        cases.push(Case { name, layers, expected });
    };
    kinds(&mut case);
    markers::markers(&mut case);
    markers::marker_order(&mut case);
    markers::replaced(&mut case);
    links::symlinks(&mut case);
    links::hard_links(&mut case);
    links::outside(&mut case);
    metadata::metadata(&mut case);
    metadata::names(&mut case);
    archives::sparse(&mut case);
    archives::headers(&mut case);
    cases
}

type Add<'a> = dyn FnMut(&'static str, &[&[Item]], Expected) + 'a;

fn kinds(case: &mut Add<'_>) {
    case(
        "every kind of entry",
        &[&[
            dir("d"),
            file("d/f", "x"),
            symlink("l", "d/f"),
            hard_link("h", "d/f"),
            char_device("null", 1, 3),
            block_device("loop", 7, 0),
            fifo("pipe"),
        ]],
        tree(&[
            ("d", "dir"),
            ("d/f", "file x"),
            ("h", "file x & d/f"),
            ("l", "link d/f"),
            ("loop", "block 7:0"),
            ("null", "char 1:3"),
            ("pipe", "pipe"),
        ]),
    );
    case("no layers have entries", &[&[], &[]], tree(&[]));
    case(
        "type flags of files",
        &[&[flagged(b'7', "contiguous", "x"), flagged(0, "old", "x").magic([0; 8])]],
        tree(&[("contiguous", "file x"), ("old", "file x")]),
    );
    case(
        "an old folder ends in a slash",
        &[&[flagged(0, "d/", ""), file("e/", "x")]],
        tree(&[("d", "dir 0644"), ("e", "file x")]),
    );
    for flag in [b'Z', b'D', b'M', b'V', b'N', b'X'] {
        case("an unknown type flag", &[&[flagged(flag, "u", "x")]], UNSUPPORTED);
    }
    case(
        "a global header is read over",
        &[&[flagged(b'g', "g", "9 a=bcd\n"), file("a", "x")]],
        tree(&[("a", "file x")]),
    );
    case(
        "parents that no entry names",
        &[&[file("a/b/c", "x")]],
        tree(&[("a", "dir t 0"), ("a/b", "dir t 0"), ("a/b/c", "file x")]),
    );
    case(
        "the root's entry",
        &[&[dir(".").mode(0o700).owner(3, 4), file("a", "x")]],
        tree(&[(".", "dir 0700 3:4"), ("a", "file x")]),
    );
    case("the root is no folder", &[&[file(".", "x")]], INVALID);
    case("the root is a link", &[&[symlink("/", OUT)], &[file("a", "x")]], INVALID);
    case("a device whose numbers are too large", &[&[char_device("d", 4096, 0)]], INVALID);
}
