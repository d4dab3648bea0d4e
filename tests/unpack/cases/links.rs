//! Symbolic links, hard links, and paths that lead out of the root.

use crate::cases::{Add, CAPABILITY, INVALID, OUT, tree};
use crate::layers::{dir, file, hard_link, symlink};

pub(super) fn symlinks(case: &mut Add<'_>) {
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

pub(super) fn hard_links(case: &mut Add<'_>) {
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

pub(super) fn outside(case: &mut Add<'_>) {
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
