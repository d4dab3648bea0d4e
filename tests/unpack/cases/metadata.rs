//! Modes, owners, times, attributes and names.

use crate::cases::{Add, INVALID, tree};
use crate::layers::{char_device, dir, fifo, file, hard_link, raw, symlink};

pub(super) fn metadata(case: &mut Add<'_>) {
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

pub(super) fn names(case: &mut Add<'_>) {
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
