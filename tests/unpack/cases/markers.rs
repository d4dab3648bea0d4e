//! Whiteouts, opaque markers, and entries that replace what lower layers have.

use crate::cases::{Add, INVALID, tree};
use crate::layers::{Item, char_device, dir, file, hard_link, symlink};

pub(super) fn markers(case: &mut Add<'_>) {
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
pub(super) fn marker_order(case: &mut Add<'_>) {
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

pub(super) fn replaced(case: &mut Add<'_>) {
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
