//! The layers of `src`: each room names only the rooms below it, and each part of a room only the parts below it.
#![allow(clippy::unwrap_used)]

mod paths;
mod rooms;
mod rules;
mod source;

use std::fs;
use std::path::Path;

use rooms::FLOORS;
use rules::{circles, floor, violations};
use source::{Source, sources};

#[test]
fn every_room_names_only_rooms_below_it() {
    let sources = sources();
    assert!(sources.len() > 50, "the sources were not found: {sources:?}");
    let found = violations(&sources);
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn every_part_of_a_room_with_floors_has_one() {
    for source in sources() {
        if let [room, part, ..] = &source.module[..]
            && FLOORS.iter().any(|(with_floors, _)| with_floors == room)
        {
            assert!(floor(room, part).is_some(), "{} has no floor", source.path.display());
        }
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let found: Vec<_> = circles(&sources()).iter().map(|circle| circle.join(", ")).collect();
    assert!(found.is_empty(), "circles of imports:\n{}\n", found.join("\n"));
}

/// A page names a file by its path from the crate's folder or from `src`, or by the end of that path.
#[test]
fn each_file_that_a_page_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (sources, mut count) = (sources(), 0);
    for page in ["src/ARCHITECTURE.md", ".github/CONTRIBUTING.md", ".github/SECURITY.md"] {
        // A package has no `.github`.
        let Ok(text) = fs::read_to_string(root.join(page)) else { continue };
        for name in files_named(&text) {
            let exists = root.join(name).exists()
                || root.join("src").join(name).exists()
                || sources.iter().any(|source| source.path.ancestors().any(|path| path.ends_with(name)));
            assert!(exists, "{page} names {name}, which does not exist");
            count += 1;
        }
    }
    assert!(count > 100, "only {count} names of files were found");
    assert_eq!(files_named("`a.rs` and `b/`, `c::d` `x/y.md` `9/2` `…/z.rs`"), ["a.rs", "b/", "x/y.md"]);
}

/// Returns the names of files and folders between backticks.
fn files_named(text: &str) -> Vec<&str> {
    let is_file = |name: &&str| {
        let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
        is_plain && [".rs", ".md", "/"].iter().any(|end| name.ends_with(end))
    };
    text.split('`').skip(1).step_by(2).filter(is_file).collect()
}

#[test]
fn one_file_uses_the_seam_of_ureq_that_is_outside_its_semver() {
    let uses_it = |source: &&Source| source.text.contains("ureq::unversioned");
    let found: Vec<_> = sources().iter().filter(uses_it).map(|source| source.path.clone()).collect();
    assert_eq!(found, [Path::new("src/registry/http/transport.rs")]);
}

#[test]
fn a_circle_is_seen() {
    let circle_of = |files: &[(&str, &str)]| {
        let sources: Vec<_> = files.iter().map(|(path, text)| Source::new(path, *text)).collect();
        circles(&sources)
    };
    let face = ("src/store/mod.rs", "mod a;\nmod b;\npub use a::A;");
    let cases = [
        ("use crate::store::b::B;", "use super::a::A;", vec!["store::a", "store::b"]),
        ("use crate::store::A;", "", vec!["store", "store::a"]),
        ("use crate::store::b::B;", "#[cfg(test)]\nmod tests {\n    use crate::store::a::A;\n}", vec![]),
        ("use crate::store::b::B;", "pub(in crate::store) fn b() {}", vec![]),
    ];
    for (a, b, expected) in cases {
        let found = circle_of(&[face, ("src/store/a.rs", a), ("src/store/b.rs", b)]);
        assert_eq!(found.concat(), expected, "{a} {b}");
    }
}

#[test]
fn a_violation_is_seen_and_named_by_file_and_line() {
    let cases = [
        ("src/image/platform.rs", "use crate::store::Store;", "image must not use store"),
        ("src/image/platform.rs", "\n    let x = crate::registry::y();", "image must not use registry"),
        ("src/puller/mod.rs", "use crate::registry::RegistryImageService;", "puller must not use registry"),
        (
            "src/store/lease.rs",
            "use crate::{\n    error::Error,\n    service::X,\n};",
            "store must not use service",
        ),
        ("src/service.rs", "use super::puller::ImagePuller;", "service must not use puller"),
        ("src/puller/pulls.rs", "use super::super::store::Store;", "puller must not use store"),
        ("src/registry/pull.rs", "use crate::testing::Registry;", "registry must not use testing"),
        (
            "src/registry/http/tcp.rs",
            "use super::super::auth::X;",
            "registry::http must not use registry::auth",
        ),
        (
            "src/registry/auth.rs",
            "use super::{http, request};",
            "registry::auth must not use registry::request",
        ),
        (
            "src/image/platform.rs",
            "use crate::image::manifest::Index;",
            "image::platform must not use image::manifest",
        ),
        (
            "src/registry/hosts/file.rs",
            "use crate::registry::download::X;",
            "registry::hosts must not use registry::download",
        ),
        ("src/store/layout.rs", "use crate::store::gc::X;", "store::layout must not use store::gc"),
        (
            "src/store/layout.rs",
            "use crate::store::{index, gc::{X}};",
            "store::layout must not use store::gc",
        ),
        ("src/store/gc.rs", "use crate::store::Store;", "store::gc must not use its face, store"),
        ("src/registry/url_policy.rs", "use ureq::http::Uri;", "only src/registry/http may name ureq"),
        ("src/store/mod.rs", "use crate::Error;", "crate::Error names no room"),
        ("src/attic/mod.rs", "", "attic is no room that the table has"),
    ];
    for (path, text, expected) in cases {
        let found = violations(&[Source::new(path, text)]);
        assert_eq!(found.len(), 1, "{path}: {text}: {found:?}");
        assert!(found[0].starts_with(&format!("{path}:")) && found[0].ends_with(expected), "{found:?}");
    }
    let second_line = [Source::new("src/image/x.rs", "use std::fmt;\nuse crate::puller::X;")];
    assert_eq!(violations(&second_line), ["src/image/x.rs:2: image must not use puller"]);
}

#[test]
fn allowed_imports_are_no_violations() {
    let cases = [
        ("src/registry/download.rs", "use crate::durable::Disk; // what the store uses"),
        ("src/manager/mod.rs", "use crate::progress::Progress;"),
        ("src/image/digest.rs", "/// See [`x`](crate::store::x).\n// crate::store"),
        ("src/image/digest.rs", "use crate::clock::Clock;\nuse crate::sync::Semaphore;"),
        ("src/registry/hosts/file.rs", "use super::location::Location;\nuse super::super::http::Uri;"),
        ("src/registry/http/tcp.rs", "use ureq::Error;"),
        ("src/context.rs", "mod tests {\n    use super::*;\n    use super::PullContext;\n}"),
        ("src/bin/oci-puller/main.rs", "use crate::pull;"),
        ("src/lib.rs", "pub use store::Store;"),
    ];
    for (path, text) in cases {
        assert_eq!(violations(&[Source::new(path, text)]), Vec::<String>::new(), "{path}: {text}");
    }
}
