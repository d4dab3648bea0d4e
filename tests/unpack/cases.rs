//! Small images, and the tree that each makes, or the kind of error that refuses it.

use oci_puller::ErrorKind;

use crate::layers::{
    Item, block_device, char_device, dir, fifo, file, flagged, hard_link, raw, record, symlink,
};

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
    markers(&mut case);
    marker_order(&mut case);
    replaced(&mut case);
    symlinks(&mut case);
    hard_links(&mut case);
    outside(&mut case);
    metadata(&mut case);
    names(&mut case);
    sparse(&mut case);
    headers(&mut case);
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

fn markers(case: &mut Add<'_>) {
    let below = [dir("d"), file("d/old", "x"), file("f", "x")];
    case("a whiteout of a file", &[&below, &[file("d/.wh.old", "")]], tree(&[("d", "dir"), ("f", "file x")]));
    case("a whiteout of a folder", &[&below, &[file(".wh.d", "")]], tree(&[("f", "file x")]));
    case(
        "an opaque folder",
        &[&below, &[file("d/.wh..wh..opq", ""), file("d/new", "x")]],
        tree(&[("d", "dir"), ("d/new", "file x"), ("f", "file x")]),
    );
    case(
        "an opaque root",
        &[&below, &[file(".wh..wh..opq", ""), file("new", "x")], &[file("top", "x")]],
        tree(&[("new", "file x"), ("top", "file x")]),
    );
    case(
        "a whiteout of nothing",
        &[&below, &[file(".wh.none", ""), file("no/.wh.such", ""), file("f/.wh.x", "")]],
        tree(&[("d", "dir"), ("d/old", "file x"), ("f", "file x")]),
    );
    case(
        "a character device 0:0",
        &[&below, &[char_device("f", 0, 0), char_device("none", 0, 0)]],
        tree(&[("d", "dir"), ("d/old", "file x")]),
    );
    case(
        "markers of any kind",
        &[&below, &[dir(".wh.f"), hard_link("d/.wh.old", "nothing"), symlink("d/.wh..wh..opq", "x")]],
        tree(&[("d", "dir")]),
    );
    case(
        "names of aufs",
        &[&below, &[dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", "x"), file("d/.wh..wh.aufs", "")]],
        tree(&[("d", "dir"), ("d/old", "file x"), ("f", "file x")]),
    );
    case(
        "a whiteout keeps the folder's own entry",
        &[
            &[dir("a").mode(0o700).owner(5, 6).time(5), file("a/x", "x"), file("a/y", "x")],
            &[file("a/.wh.x", "")],
        ],
        tree(&[("a", "dir 0700 5:6 t 5"), ("a/y", "file x")]),
    );
    case(
        "a whiteout, and the folder again two layers above",
        &[&below, &[file(".wh.d", "")], &[dir("d"), file("d/new", "x")]],
        tree(&[("d", "dir"), ("d/new", "file x"), ("f", "file x")]),
    );
    case(
        "folders below a whiteout",
        &[
            &[dir("d"), dir("d/s"), file("d/s/old", "x")],
            &[file(".wh.d", ""), dir("d"), dir("d/s"), file("d/s/new", "x")],
        ],
        tree(&[("d", "dir"), ("d/s", "dir"), ("d/s/new", "file x")]),
    );
    case(
        "an opaque folder deep below, twice",
        &[
            &[dir("d"), dir("d/s"), file("d/s/old", "x")],
            &[file("d/s/.wh..wh..opq", "")],
            &[file("d/s/new", "x")],
        ],
        tree(&[("d", "dir"), ("d/s", "dir"), ("d/s/new", "file x")]),
    );
    case(
        "a marker hides no entry of its layer",
        &[
            &[dir("d")],
            &[dir("d"), file("d/a", "x"), file("d/.wh.a", ""), file("d/.wh..wh..opq", ""), file(".wh.d", "")],
        ],
        tree(&[("d", "dir"), ("d/a", "file x")]),
    );
    for name in [".wh.", "s/.wh..", "s/.wh...", ".wh.d/x"] {
        case("a marker that names nothing", &[&[dir("s"), file("s/a", "x")], &[file(name, "")]], INVALID);
    }
}

/// Each order of the entries makes the same tree.
fn marker_order(case: &mut Add<'_>) {
    let mut both = |name, below: &[Item], entries: &[Item], expected: &[(&'static str, &'static str)]| {
        case(name, &[below, entries], tree(expected));
        let reversed: Vec<Item> = entries.iter().rev().cloned().collect();
        case(name, &[below, &reversed], tree(expected));
    };
    both(
        "a file and its whiteout",
        &[file("f", "old")],
        &[file("f", "new"), file(".wh.f", "")],
        &[("f", "file new")],
    );
    both(
        "files and the whiteout of their folder",
        &[dir("d").mode(0o700), file("d/old", "x")],
        &[file("d/new", "x"), file(".wh.d", "")],
        &[("d", "dir t 0"), ("d/new", "file x")],
    );
    both(
        "files and the opaque marker of their folder",
        &[dir("d").mode(0o700), file("d/old", "x")],
        &[file("d/new", "x"), file("d/.wh..wh..opq", "")],
        &[("d", "dir 0700"), ("d/new", "file x")],
    );
    both(
        "a folder in place of a link, and its opaque marker",
        &[dir("t"), file("t/keep", "x"), symlink("l", "t")],
        &[dir("l"), file("l/.wh..wh..opq", "")],
        &[("l", "dir"), ("t", "dir"), ("t/keep", "file x")],
    );
    both(
        "an entry below a link that is whited out",
        &[dir("t"), symlink("l", "t")],
        &[file("l/new", "x"), file(".wh.l", "")],
        &[("l", "dir t 0"), ("l/new", "file x"), ("t", "dir")],
    );
    both(
        "an entry below a file that is whited out",
        &[file("a", "x")],
        &[file("a/b", "x"), file(".wh.a", "")],
        &[("a", "dir t 0"), ("a/b", "file x")],
    );
    both(
        "a marker below a link",
        &[dir("t"), file("t/a", "x"), file("t/b", "x"), symlink("l", "t")],
        &[file("l/.wh.a", ""), file("t/c", "x")],
        &[("l", "link t"), ("t", "dir"), ("t/b", "file x"), ("t/c", "file x")],
    );
    both(
        "an opaque marker and a whiteout of one folder",
        &[dir("d"), file("d/old", "x")],
        &[file("d/.wh..wh..opq", ""), file(".wh.d", "")],
        &[],
    );
    both(
        "an opaque marker below an opaque folder",
        &[dir("d"), dir("d/s"), file("d/s/old", "x")],
        &[file("d/s/.wh..wh..opq", ""), file("d/.wh..wh..opq", "")],
        &[("d", "dir")],
    );
    both(
        "an entry below a loop of links that is whited out",
        &[symlink("l", "l")],
        &[file("l/new", "x"), file(".wh.l", "")],
        &[("l", "dir t 0"), ("l/new", "file x")],
    );
    both(
        "a marker below a loop of links",
        &[symlink("l", "l"), file("f", "x")],
        &[file("l/.wh.f", "")],
        &[("f", "file x"), ("l", "link l")],
    );
    both(
        "a marker below a link of its layer to a link of the layer below",
        &[dir("t"), file("t/a", "x"), symlink("l", "t")],
        &[symlink("m", "l"), file("m/.wh.a", "")],
        &[("l", "link t"), ("m", "link l"), ("t", "dir"), ("t/a", "file x")],
    );
    // Entries are in order among themselves; the marker may stand anywhere.
    for entries in [
        [symlink("l", "d/.."), file("l/f", "x"), file(".wh.d", "")],
        [file(".wh.d", ""), symlink("l", "d/.."), file("l/f", "x")],
    ] {
        case(
            "an entry through a folder that is whited out",
            &[&[dir("d").mode(0o700)], &entries],
            tree(&[("d", "dir t 0"), ("f", "file x"), ("l", "link d/..")]),
        );
    }
}

fn replaced(case: &mut Add<'_>) {
    let folder = [dir("p"), file("p/n", "x")];
    case("a file in place of a folder", &[&folder, &[file("p", "f")]], tree(&[("p", "file f")]));
    case(
        "a file in place of a folder, and a folder again",
        &[&folder, &[file("p", "f")], &[dir("p"), file("p/new", "x")]],
        tree(&[("p", "dir"), ("p/new", "file x")]),
    );
    case(
        "the same in one layer",
        &[&folder, &[file("p", "f"), dir("p"), file("p/new", "x")]],
        tree(&[("p", "dir"), ("p/new", "file x")]),
    );
    case("a link in place of a folder", &[&folder, &[symlink("p", "q")]], tree(&[("p", "link q")]));
    case(
        "a folder in place of a link",
        &[&[dir("t"), file("t/keep", "x"), symlink("p", "t")], &[dir("p"), file("p/new", "x")]],
        tree(&[("p", "dir"), ("p/new", "file x"), ("t", "dir"), ("t/keep", "file x")]),
    );
    case(
        "a file in place of a link",
        &[&[file("t", "keep"), symlink("p", "t")], &[file("p", "new")]],
        tree(&[("p", "file new"), ("t", "file keep")]),
    );
    case(
        "the later of two entries counts",
        &[&[file("a", "1"), file("a", "2"), dir("d").mode(0o700), file("d/f", "x"), dir("d")]],
        tree(&[("a", "file 2"), ("d", "dir"), ("d/f", "file x")]),
    );
    case(
        "a layer that is repeated",
        &[&[file("a", "1")], &[file("a", "2")], &[file("a", "1")]],
        tree(&[("a", "file 1")]),
    );
    case(
        "a lower file where a folder must be",
        &[&[file("a", "x")], &[file("a/b", "x")]],
        tree(&[("a", "dir t 0"), ("a/b", "file x")]),
    );
    case("a file of the layer where a folder must be", &[&[file("a", "x"), file("a/b", "x")]], INVALID);
}

fn symlinks(case: &mut Add<'_>) {
    case(
        "an entry below a lower link",
        &[
            &[dir("usr"), dir("usr/lib"), file("usr/lib/a", "x"), symlink("lib", "usr/lib")],
            &[file("lib/b", "x")],
        ],
        tree(&[
            ("lib", "link usr/lib"),
            ("usr", "dir"),
            ("usr/lib", "dir"),
            ("usr/lib/a", "file x"),
            ("usr/lib/b", "file x"),
        ]),
    );
    case(
        "an entry below an absolute link",
        &[&[dir("t"), symlink("l", "/t")], &[file("l/b", "x"), file("t/c", "x")]],
        tree(&[("l", "link /t"), ("t", "dir"), ("t/b", "file x"), ("t/c", "file x")]),
    );
    case(
        "an entry below a link to nothing",
        &[&[symlink("l", "a/b")], &[file("l/c", "x")]],
        tree(&[("a", "dir t 0"), ("a/b", "dir t 0"), ("a/b/c", "file x"), ("l", "link a/b")]),
    );
    case(
        "a link through links",
        &[&[dir("t"), symlink("m", "t"), dir("d"), symlink("d/l", "../m")], &[file("d/l/f", "x")]],
        tree(&[("d", "dir"), ("d/l", "link ../m"), ("m", "link t"), ("t", "dir"), ("t/f", "file x")]),
    );
    case("a link loop", &[&[symlink("a", "b"), symlink("b", "a")], &[file("a/f", "x")]], INVALID);
    case(
        "a link above the root",
        &[&[dir("d"), symlink("d/up", "../../../..")], &[file("d/up/f", "x")]],
        tree(&[("d", "dir"), ("d/up", "link ../../../.."), ("f", "file x")]),
    );
    case(
        "a link to a lower file where a folder must be",
        &[&[file("t", "x"), symlink("l", "t")], &[file("l/f", "x")]],
        tree(&[("l", "link t"), ("t", "dir t 0"), ("t/f", "file x")]),
    );
    case("an empty link", &[&[symlink("a", "")]], INVALID);
}

fn hard_links(case: &mut Add<'_>) {
    case(
        "targets are paths from the root",
        &[&[dir("u"), file("u/a", "1"), hard_link("b", "/u/a"), hard_link("c", "./u/a")]],
        tree(&[("b", "file 1"), ("c", "file 1 & b"), ("u", "dir"), ("u/a", "file 1 & b")]),
    );
    case(
        "a link to a lower file",
        &[&[file("a", "1")], &[hard_link("b", "a")], &[hard_link("c", "b")]],
        tree(&[("a", "file 1"), ("b", "file 1 & a"), ("c", "file 1 & a")]),
    );
    case(
        "a link to a lower file that has two names",
        &[
            &[dir("d").mode(0o700).time(5), file("d/a", "1"), hard_link("d/b", "d/a")],
            &[hard_link("c", "d/b")],
        ],
        tree(&[("c", "file 1"), ("d", "dir 0700 t 5"), ("d/a", "file 1 & c"), ("d/b", "file 1 & c")]),
    );
    case(
        "a linked name is written again",
        &[&[file("a", "1")], &[hard_link("b", "a"), file("a", "2")]],
        tree(&[("a", "file 2"), ("b", "file 1")]),
    );
    case(
        "a linked name is hidden",
        &[&[file("a", "1"), hard_link("b", "a"), hard_link("c", "a")], &[file(".wh.a", "")]],
        tree(&[("b", "file 1"), ("c", "file 1 & b")]),
    );
    case(
        "a link to a symbolic link",
        &[&[file("a", "x"), symlink("s", "a"), hard_link("b", "s")]],
        tree(&[("a", "file x"), ("b", "link a"), ("s", "link a & b")]),
    );
    case(
        "a link to a lower symbolic link",
        &[&[file("a", "x"), symlink("s", "a")], &[hard_link("b", "s")]],
        tree(&[("a", "file x"), ("b", "link a"), ("s", "link a & b")]),
    );
    case(
        "a link through a symbolic link",
        &[&[dir("d"), file("d/a", "x"), symlink("s", "d")], &[hard_link("b", "s/a")]],
        tree(&[("b", "file x"), ("d", "dir"), ("d/a", "file x & b"), ("s", "link d")]),
    );
    case(
        "a capability is kept",
        &[
            &[file("a", "x").mode(0o755).pax("SCHILY.xattr.security.capability", CAPABILITY)],
            &[hard_link("b", "a")],
        ],
        tree(&[
            ("a", "file x 0755 x security.capability=0100000200200000000000000000000000000000"),
            ("b", "file x 0755 & a x security.capability=0100000200200000000000000000000000000000"),
        ]),
    );
    case(
        "a link takes another's place",
        &[&[file("a", "1"), file("b", "2"), hard_link("b", "a"), hard_link("b", "a")]],
        tree(&[("a", "file 1"), ("b", "file 1 & a")]),
    );
    for target in ["nothing", "b", "d", ".", "../tmp", "a/x"] {
        case("a link that leads nowhere", &[&[dir("d"), file("a", "x"), hard_link("b", target)]], INVALID);
    }
    case("a link to its own name", &[&[file("a", "x"), hard_link("a", "a")]], INVALID);
    case(
        "a link to its own name through a symbolic link",
        &[&[dir("d"), file("d/a", "x"), symlink("s", "d"), hard_link("d/a", "s/a")]],
        INVALID,
    );
    case(
        "a link in place of the folder of its target",
        &[&[dir("d"), file("d/a", "x"), hard_link("d", "d/a")]],
        INVALID,
    );
}

fn outside(case: &mut Add<'_>) {
    case(
        "dots lead nowhere",
        &[&[file("../a", "x"), file("b/../../c", "x"), file("/d", "x")]],
        tree(&[("a", "file x"), ("c", "file x"), ("d", "file x")]),
    );
    let (out, inside) =
        ("/tmp/oci-puller-test-outside", [("tmp", "dir t 0"), ("tmp/oci-puller-test-outside", "dir t 0")]);
    let with = |rest: &[(&'static str, &'static str)]| tree(&[&inside[..], rest].concat());
    case(
        "a file below a link out",
        &[&[symlink("s", out)], &[file("s/f", "x")]],
        with(&[("s", "link /tmp/oci-puller-test-outside"), ("tmp/oci-puller-test-outside/f", "file x")]),
    );
    case(
        "a file below a link of the same layer",
        &[&[symlink("s", OUT), file("s/f", "x")]],
        with(&[
            ("s", "link ../../../../../../../../tmp/oci-puller-test-outside"),
            ("tmp/oci-puller-test-outside/f", "file x"),
        ]),
    );
    case(
        "a folder over a link out",
        &[&[symlink("s", out), dir("s/.").mode(0o777)]],
        tree(&[("s", "dir 0777")]),
    );
    case(
        "a whiteout below a link out",
        &[&[symlink("s", out)], &[file("s/.wh.victim", "")]],
        tree(&[("s", "link /tmp/oci-puller-test-outside")]),
    );
    case("a hard link through a link out", &[&[symlink("s", out), hard_link("b", "s/victim")]], INVALID);
    case("a hard link to the outside", &[&[hard_link("b", "/tmp/oci-puller-test-outside/victim")]], INVALID);
    case(
        "a hard link to a link out",
        &[&[symlink("s", "/tmp/oci-puller-test-outside/victim"), hard_link("b", "s")]],
        tree(&[
            ("b", "link /tmp/oci-puller-test-outside/victim"),
            ("s", "link /tmp/oci-puller-test-outside/victim & b"),
        ]),
    );
    for name in [".oci-puller-unfinished", "./.oci-puller-unfinished/x", ".oci-puller-staging/0"] {
        case("a name of ours", &[&[file(name, "x")]], INVALID);
    }
    case("a link to a name of ours", &[&[symlink("s", ".oci-puller-staging")], &[file("s/0", "x")]], INVALID);
    case("a hard link to a name of ours", &[&[hard_link("s", ".oci-puller-unfinished")]], INVALID);
    case(
        "a name of ours elsewhere",
        &[&[file("d/.oci-puller-unfinished", "x")], &[file(".wh..oci-puller-unfinished", "")]],
        tree(&[("d", "dir t 0"), ("d/.oci-puller-unfinished", "file x")]),
    );
}

fn metadata(case: &mut Add<'_>) {
    case(
        "folders that cannot be entered",
        &[
            &[dir("d").mode(0o555), file("d/f", "x"), dir("d/s").mode(0), file("d/s/g", "x")],
            &[file("d/s/h", "x")],
        ],
        tree(&[
            ("d", "dir 0555"),
            ("d/f", "file x"),
            ("d/s", "dir 0000"),
            ("d/s/g", "file x"),
            ("d/s/h", "file x"),
        ]),
    );
    case(
        "set-id bits stay after the owner is set",
        &[&[
            file("u", "x").mode(0o4755).owner(7, 8),
            file("g", "x").mode(0o2755).owner(7, 8),
            dir("t").mode(0o1777),
            file("m", "x").mode(0o100_644),
        ]],
        tree(&[("g", "file x 2755 7:8"), ("m", "file x"), ("t", "dir 1777"), ("u", "file x 4755 7:8")]),
    );
    case(
        "modes of what cannot be opened",
        &[&[fifo("p").mode(0o4777), char_device("c", 1, 3).mode(0).owner(1, 2)]],
        tree(&[("c", "char 1:3 0000 1:2"), ("p", "pipe 4777")]),
    );
    case(
        "times",
        &[&[
            dir("d").time(5),
            file("d/f", "x"),
            symlink("s", "a").time(7),
            file("n", "x").time(-5),
            file("p", "x").pax("mtime", "9.123456789"),
            file("e", "x").pax("mtime", ""),
        ]],
        tree(&[
            ("d", "dir t 5"),
            ("d/f", "file x"),
            ("e", "file x"),
            ("n", "file x t -5"),
            ("p", "file x t 9.123456789"),
            ("s", "link a t 7"),
        ]),
    );
    case(
        "attributes",
        &[
            &[
                file("a", "x").pax("SCHILY.xattr.user.k", "v").pax("SCHILY.xattr.user.empty", ""),
                dir("d").pax("SCHILY.xattr.user.k", "w"),
            ],
            &[file("d/f", "x")],
        ],
        tree(&[("a", "file x x user.empty= x user.k=76"), ("d", "dir x user.k=77"), ("d/f", "file x")]),
    );
    case(
        "an entry replaces the attributes",
        &[&[dir("d").pax("SCHILY.xattr.user.k", "w")], &[dir("d").pax("SCHILY.xattr.user.l", "v")]],
        tree(&[("d", "dir x user.l=76")]),
    );
    case(
        "attributes that are dropped",
        &[&[
            dir("d")
                .pax("SCHILY.xattr.trusted.overlay.opaque", "y")
                .pax("SCHILY.xattr.user.overlay.opaque", "y"),
            file("a", "x")
                .pax("SCHILY.xattr.foo.k", "v")
                .pax("LIBARCHIVE.xattr.user.k", "dg==")
                .pax("SCHILY.xattr.security.selinux", "x"),
        ]],
        tree(&[("a", "file x"), ("d", "dir")]),
    );
    case(
        "large ids",
        &[&[
            file("a", "x").owner(3_000_000_000, 4_294_967_294),
            file("b", "x").pax("uid", "70000").pax("gid", "70001"),
        ]],
        tree(&[("a", "file x 3000000000:4294967294"), ("b", "file x 70000:70001")]),
    );
    for (uid, gid) in [(u32::MAX.into(), 0), (0, u32::MAX.into()), (1 << 33, 0), (0, 1 << 33)] {
        case("an id that is too large", &[&[file("a", "x").owner(uid, gid)]], INVALID);
    }
    for (key, value) in [
        ("uid", "4294967295"),
        ("gid", "-1"),
        ("uid", "x"),
        ("mtime", "x"),
        ("mtime", "99999999999999999999"),
        ("size", "-1"),
    ] {
        case("a record that is no number", &[&[file("a", "x").pax(key, value)]], INVALID);
    }
    case(
        "an attribute that is too long",
        &[&[file("a", "x").pax("SCHILY.xattr.user.k", vec![0; (64 << 10) + 1])]],
        INVALID,
    );
}

fn names(case: &mut Add<'_>) {
    case(
        "slashes and dots",
        &[&[file("./a//b/", "x"), file("c/./d", "x")]],
        tree(&[("a", "dir t 0"), ("a/b", "file x"), ("c", "dir t 0"), ("c/d", "file x")]),
    );
    case(
        "bytes that are no text",
        &[&[file(b"n\xff\xfe", "x"), symlink("s", b"\xff")]],
        tree(&[("n\\xff\\xfe", "file x"), ("s", "link \\xff")]),
    );
    case("a name of 256 bytes", &[&[file("n".repeat(256), "x")]], INVALID);
    case("a path of more than 4096 bytes", &[&[file("1234567/".repeat(513), "x")]], INVALID);
    case("an empty name", &[&[file("", "x")]], INVALID);
    case("a NUL in a name", &[&[file("z", "x").pax("path", "a\0b")]], INVALID);
    case("a NUL in a target", &[&[symlink("z", "x").pax("linkpath", "a\0b")]], INVALID);
    let long = "k".repeat(150);
    case(
        "long names",
        &[&[
            file(&long, "x"),
            file("short", "y").pax("path", format!("{long}2")),
            hard_link("h", &long),
            symlink("s", &long),
        ]],
        {
            let shown = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
            tree(&[
                ("h", "file x"),
                (shown(long.clone()), "file x & h"),
                (shown(format!("{long}2")), "file y"),
                ("s", shown(format!("link {long}"))),
            ])
        },
    );
    let prefixed = {
        let mut header = file("name", "").bytes();
        header[345..351].copy_from_slice(b"prefix");
        let sum: u32 = header
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
            .sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        raw(header)
    };
    case("a prefix", &[&[prefixed]], tree(&[("prefix", "dir t 0"), ("prefix/name", "file ")]));
}

fn sparse(case: &mut Add<'_>) {
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

fn headers(case: &mut Add<'_>) {
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
