//! The names of the library's types: one name, one type, one public path.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The names that more than one type has, because the types are the same idea in several rooms, and why.
const SHARED: &[(&str, &str)] = &[
    ("Image", "a message of the CRI API, which keeps the name it has there, and the image of `testing`"),
    ("ImageSpec", "a message of the CRI API, and the same spec as users of the library see it"),
    ("Lease", "keeps blobs of a store, or layers of a layer store, from garbage collection"),
    ("PodSandboxConfig", "a message of the CRI API, and the same config as users of the library see it"),
];

#[test]
fn no_type_name_stands_twice() {
    let shared = shared_names(&sources());
    for (name, files) in &shared {
        let is_listed = SHARED.iter().any(|(listed, _)| listed == name);
        assert!(is_listed, "{name} is the name of several types, in {}", files.join(", "));
    }
    for (name, _) in SHARED {
        assert!(shared.contains_key(*name), "{name} is the name of one type: take it off the list");
    }
}

#[test]
fn a_shared_name_is_found() {
    let cases = [
        ("pub(super) struct Entry<'a> {", "enum Entry {", true),
        ("pub type Entry = u8;", "pub(in crate::x) trait Entry: Send {", true),
        ("struct Entry;", "struct Entries;", false),
        ("struct Entry;", "#[cfg(test)]\nmod tests {\n    struct Entry;\n}", false),
        ("struct Entry;", "fn f() {\n    struct Entry;\n}", false),
    ];
    for (a, b, expected) in cases {
        let sources = [("a.rs".to_owned(), a.to_owned()), ("b.rs".to_owned(), b.to_owned())];
        assert_eq!(shared_names(&sources).contains_key("Entry"), expected, "{a} {b}");
    }
}

/// Returns path and text of each source file of the library, except for unit tests in files of their own.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths: Vec<PathBuf> = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(path) = paths.pop() {
        let name = path.strip_prefix(&root).unwrap().display().to_string();
        if path.is_dir() && name != "bin" {
            paths.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if name.ends_with(".rs") && !name.contains("tests") {
            sources.push((name, fs::read_to_string(path).unwrap()));
        }
    }
    assert!(sources.len() > 50, "the sources were not found: {sources:?}");
    sources
}

/// Returns each name that more than one type has, with the files of the types.
fn shared_names(sources: &[(String, String)]) -> BTreeMap<String, Vec<String>> {
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, text) in sources {
        let (text, _) = text.split_once("#[cfg(test)]\nmod tests {").unwrap_or((text, ""));
        for name in text.lines().filter_map(type_name) {
            files.entry(name.to_owned()).or_default().push(path.clone());
        }
    }
    files.retain(|_, files| files.len() > 1);
    files
}

/// Returns the name of the type that a line without indentation declares.
fn type_name(line: &str) -> Option<&str> {
    let line = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(") ")?.1,
        Some(rest) => rest.strip_prefix(' ')?,
        None => line,
    };
    let kinds = ["struct ", "enum ", "trait ", "type "];
    let name = kinds.iter().find_map(|kind| line.strip_prefix(kind))?;
    name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next()
}

/// The root of the crate has what most programs use; the public rooms have the rest.
#[test]
fn no_public_item_has_two_paths() {
    let sources = sources();
    let text = |name: &str| &sources.iter().find(|(path, _)| path == name).unwrap().1;
    let root = text("lib.rs");
    let at_root = exports(root);
    assert!(at_root.len() > 20, "{at_root:?}");
    for room in root.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')) {
        let files = [format!("{room}.rs"), format!("{room}/mod.rs")];
        let Some((path, face)) = sources.iter().find(|(path, _)| files.contains(path)) else { continue };
        for name in exports(face) {
            assert!(!at_root.contains(&name), "{name} is exported by {path} and by the root");
        }
    }
}

/// Returns the names that `pub use` exports without indentation.
fn exports(text: &str) -> Vec<&str> {
    let uses = text.split("\npub use ").skip(1).filter_map(|rest| rest.split(';').next());
    let names = uses.flat_map(|path| {
        let (_, names) = path.split_once('{').unwrap_or(path.rsplit_once("::").unwrap_or(("", path)));
        names.split([',', '}']).map(str::trim).filter(|name| !name.is_empty())
    });
    names.collect()
}
