//! Who may know whom: each room of `src` names only the rooms below it.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A room, and the rooms that it may use; what those may use, it may use too.
const ROOMS: &[(&str, &[&str])] = &[
    ("manager", &["puller", "service", "durable"]),
    ("puller", &["service"]),
    ("registry", &["store", "credentials", "service", "unpack"]),
    ("cri", &["service", "credentials"]),
    ("unpack", &["store", "decoders"]),
    ("signatures", &["registry", "store"]),
    ("credentials", &["service"]),
    ("store", &["durable", "image", "context", "tar", "decoders"]),
    ("testing", &["image"]),
    ("decoders", &[]),
    ("durable", &[]),
    ("service", &["image", "context"]),
    ("context", &["progress"]),
    ("progress", &["image"]),
    ("image", &[]),
    ("error", &["image"]),
    ("clock", &[]),
    ("log_filter", &[]),
    ("sync", &[]),
    ("tar", &[]),
];

/// What every room may use.
const GROUND: &[&str] = &["error", "clock", "sync"];

/// The floors inside a room, the highest first: a part may use its own floor and those below.
const FLOORS: &[(&str, &[&[&str]])] = &[
    (
        "registry",
        &[
            &["builder", "fuzzing"],
            &["image_service"],
            &["pull", "queries"],
            &["verifier"],
            &["resolve", "download", "referrers"],
            &["document"],
            &["retry"],
            &["request"],
            &["session"],
            &["client"],
            &["open_files"],
            &["settings", "hosts", "auth"],
            &["host_limits", "url_policy", "range", "error_response", "encoding"],
            &["http", "retry_after", "link"],
            &["address"],
        ],
    ),
    (
        "credentials",
        &[
            &["sources"],
            &["files", "helper", "pull_secrets"],
            &["docker_config", "keyring", "lookup"],
            &["credential", "query", "glob", "go_duration", "config_file", "yaml"],
        ],
    ),
    (
        "manager",
        &[
            &["tests"],
            &["builder"],
            &["image_manager"],
            &["workers"],
            &["ensure"],
            &["presence"],
            &["inner"],
            &["in_flight", "jobs"],
            &["shared_pull", "verification"],
            &["responder", "schedule", "throttle", "backoff", "records", "metrics"],
            &["request", "events", "credential_hash"],
        ],
    ),
    (
        "puller",
        &[
            &["forward", "parallel", "serial"],
            &["pulls", "until"],
            &["image_puller"],
            &["rejected"],
            &["queued"],
            &["result"],
        ],
    ),
    (
        "store",
        &[
            &["tests"],
            &["open", "import", "export"],
            &["gc", "verify"],
            &["ingest"],
            &["signatures"],
            &["lookup"],
            &["children"],
            &["blob", "partial_gc", "disk_usage", "references", "transaction"],
            &["handle"],
            &["create"],
            &["group_commit", "in_progress", "repair", "reservations"],
            &["lease"],
            &["index_write"],
            &["layout", "leftovers", "retry_io"],
            &["error", "cancellable", "index", "names", "settings", "sizes", "tar"],
        ],
    ),
    (
        "image",
        &[&["select"], &["manifest", "config"], &["platform", "reference", "json"], &["digest"], &["quoted"]],
    ),
];

/// The rooms in which no file names the room's `mod.rs`: that is the face over its parts.
const FACES: &[&str] = &["credentials", "manager", "puller", "registry", "store"];

/// Crates that only one place may name, so that they can be replaced there.
const HIDDEN_CRATES: &[(&str, &str)] = &[("ureq", "src/registry/http")];

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
        ("src/puller/until.rs", "use super::super::store::Store;", "puller must not use store"),
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
fn what_is_allowed_is_no_violation() {
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

/// A source file, and the module that it is.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    module: Vec<String>,
    text: String,
}

impl Source {
    fn new(path: impl AsRef<Path>, text: impl Into<String>) -> Self {
        let inside = path.as_ref().strip_prefix("src").unwrap().with_extension("");
        let mut module: Vec<String> = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
            module.pop();
        }
        Source { path: path.as_ref().to_owned(), module, text: text.into() }
    }

    /// Whether only tests are built with it.
    fn is_test(&self) -> bool {
        self.module.iter().any(|part| part == "tests")
    }

    /// The file without the unit tests at its end.
    fn without_tests(&self) -> Source {
        let end = self.text.find("#[cfg(test)]\nmod tests {").unwrap_or(self.text.len());
        Source { path: self.path.clone(), module: self.module.clone(), text: self.text[..end].to_owned() }
    }

    /// The module that `crate` stands for.
    fn root(&self) -> impl Iterator<Item = String> {
        let parts = if self.module[0] == "bin" { 2 } else { 0 };
        self.module[..parts].iter().cloned()
    }

    /// The room it is in; `None` for the crate's root, and for programs, which are crates of their own.
    fn room(&self) -> Option<&str> {
        self.module.first().map(String::as_str).filter(|room| *room != "bin")
    }
}

/// Every file of `src`, by its path from the crate's folder.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src")];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                sources.push(Source::new(path.strip_prefix(root).unwrap(), text));
            }
        }
    }
    sources
}

fn violations(sources: &[Source]) -> Vec<String> {
    let reach = reach();
    let mut found = Vec::new();
    for source in sources {
        let mut note = |line: usize, what: String| {
            found.push(format!("{}:{line}: {what}", source.path.display()));
        };
        for (line, what) in hidden_crates_named(source) {
            note(line, what);
        }
        let Some(room) = source.room() else { continue };
        let Some(known) = reach.get(room) else {
            note(1, format!("{room} is no room that the table has"));
            continue;
        };
        for named in paths_named(source) {
            if let Err(what) = may_name(source, room, known, &named) {
                note(named.line, what);
            }
        }
    }
    found
}

/// For each room the rooms that it may use, directly or through another.
fn reach() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let uses: BTreeMap<_, _> = ROOMS.iter().copied().collect();
    let mut reach = BTreeMap::new();
    for (room, direct) in ROOMS {
        let mut known = BTreeSet::from([*room]);
        let mut left: Vec<&str> = direct.iter().chain(GROUND).copied().collect();
        while let Some(next) = left.pop() {
            if known.insert(next) {
                left.extend(uses[next]);
            }
        }
        reach.insert(*room, known);
    }
    reach
}

fn may_name(source: &Source, room: &str, known: &BTreeSet<&str>, named: &Named) -> Result<(), String> {
    let Some(other) = named.module.first() else { return Ok(()) };
    let is_room = ROOMS.iter().any(|(name, _)| name == other);
    if !is_room {
        // Above a file's own module `super` may also be an inline module's way to that file.
        return if named.is_from_root { Err(format!("crate::{other} names no room")) } else { Ok(()) };
    }
    if !known.contains(other.as_str()) {
        return Err(format!("{room} must not use {other}"));
    }
    let (Some(part), Some(other_part)) = (source.module.get(1), named.module.get(1)) else { return Ok(()) };
    match (floor(room, part), floor(room, other_part)) {
        (Some(mine), Some(theirs)) if room == other && theirs < mine => {
            Err(format!("{room}::{part} must not use {room}::{other_part}"))
        }
        (Some(_), None) if room == other && FACES.contains(&room) && part != "tests" => {
            Err(format!("{room}::{part} must not use its face, {room}"))
        }
        _ => Ok(()),
    }
}

/// Returns the floor of a room's part, counted from the top.
fn floor(room: &str, part: &str) -> Option<usize> {
    let (_, floors) = FLOORS.iter().find(|(with_floors, _)| *with_floors == room)?;
    floors.iter().position(|floor| floor.contains(&part))
}

/// The sets of files that import each other, each sorted. A `mod.rs` counts as importing its parts.
fn circles(sources: &[Source]) -> Vec<Vec<String>> {
    let files: BTreeSet<String> = sources.iter().map(|source| source.module.join("::")).collect();
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.is_test() && !source.module.is_empty()) {
        let own = source.module.join("::");
        if let Some((above, _)) = own.rsplit_once("::") {
            imports.entry(above.to_owned()).or_default().insert(own.clone());
        }
        for named in paths_named(&source.without_tests()) {
            let module =
                if named.is_from_root { source.root().chain(named.module).collect() } else { named.module };
            let file =
                (1..=module.len()).rev().map(|len| module[..len].join("::")).find(|it| files.contains(it));
            imports.entry(own.clone()).or_default().extend(file.filter(|file| *file != own));
        }
    }
    let reached: BTreeMap<_, _> = imports.keys().map(|file| (file, reached_from(file, &imports))).collect();
    let in_circle = |file: &&&String| reached[**file].contains(**file);
    let circles = reached.keys().filter(in_circle).map(|file| {
        let is_mutual = |other: &&String| reached.get(*other).is_some_and(|back| back.contains(*file));
        reached[*file].iter().filter(is_mutual).cloned().collect::<Vec<_>>()
    });
    circles.collect::<BTreeSet<_>>().into_iter().collect()
}

/// All files that `file` imports, directly or through others.
fn reached_from(file: &str, imports: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut left: Vec<&String> = imports.get(file).into_iter().flatten().collect();
    while let Some(next) = left.pop() {
        if reached.insert(next.clone()) {
            left.extend(imports.get(next).into_iter().flatten());
        }
    }
    reached
}

fn hidden_crates_named(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (name, place) in HIDDEN_CRATES.iter().filter(|(_, place)| !source.path.starts_with(place)) {
        for (number, line) in code_lines(&source.text) {
            if idents_before_colons(line).any(|(_, ident)| ident == *name) {
                found.push((number, format!("only {place} may name {name}")));
            }
        }
    }
    found
}

/// A path in the code, from the crate's root.
struct Named {
    line: usize,
    module: Vec<String>,
    is_from_root: bool,
}

/// Each path that begins with `crate` or `super`; of a group in braces, each of its paths.
fn paths_named(source: &Source) -> Vec<Named> {
    let mut found = Vec::new();
    for (line, at, start) in path_starts(&source.text) {
        let (base, rest) = base_of(source, start, &source.text[at..]);
        for tail in tails(rest) {
            let module = base.iter().cloned().chain(tail).collect();
            found.push(Named { line, module, is_from_root: start == "crate" });
        }
    }
    found
}

/// Where a path begins, outside of comments and of `pub(in …)`: the line, the place behind the first `::`, the first name.
fn path_starts(text: &str) -> Vec<(usize, usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in code_lines(text) {
        let line_at = line.as_ptr() as usize - text.as_ptr() as usize;
        let mut last_end = None;
        for (at, ident) in idents_before_colons(line) {
            let continues = last_end == Some(at);
            let end = at + ident.len() + 2;
            last_end = Some(end);
            let is_visibility = line[..at].ends_with("pub(in ");
            if !continues && !is_visibility && matches!(ident, "crate" | "super") {
                found.push((number, line_at + end, ident));
            }
        }
    }
    found
}

/// The module that the path starts from, and what follows all of its `super::`.
fn base_of<'a>(source: &Source, start: &str, mut rest: &'a str) -> (Vec<String>, &'a str) {
    if start == "crate" {
        return (Vec::new(), rest);
    }
    let mut base = source.module.clone();
    base.pop();
    while let Some(further) = rest.strip_prefix("super::") {
        base.pop();
        rest = further;
    }
    (base, rest)
}

/// The paths at the beginning of `text`: one, or those of a group.
fn tails(text: &str) -> Vec<Vec<String>> {
    let Some(group) = text.strip_prefix('{') else {
        let (head, rest) = names(text);
        let is_group = text[..text.len() - rest.len()].ends_with("::") && rest.starts_with('{');
        let tails = if is_group { tails(rest) } else { vec![Vec::new()] };
        return tails.into_iter().map(|tail| head.iter().cloned().chain(tail).collect()).collect();
    };
    let mut depth = 0;
    let end = group.find(|c| {
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        depth < 0
    });
    let group = &group[..end.unwrap_or(group.len())];
    let mut depth = 0;
    let items = group.split(|c| {
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        depth == 0 && c == ','
    });
    items.flat_map(|item| tails(item.trim_start())).filter(|names| !names.is_empty()).collect()
}

/// Returns the names of `a::b::C`, and the text behind them.
fn names(path: &str) -> (Vec<String>, &str) {
    let end = path.find(|c: char| !is_of_name(c) && c != ':').unwrap_or(path.len());
    let names = path[..end].split("::").filter(|name| !name.is_empty()).map(str::to_owned);
    (names.collect(), &path[end..])
}

/// The lines, numbered from 1, without those that are comments, and each without the comment at its end.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    lines
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(number, line)| (number, line.split_once(" // ").map_or(line, |(code, _)| code)))
}

/// Each name that `::` follows, and where it stands.
fn idents_before_colons(line: &str) -> impl Iterator<Item = (usize, &str)> {
    line.match_indices("::").filter_map(move |(colons, _)| {
        let start = line[..colons].rfind(|c| !is_of_name(c)).map_or(0, |before| before + 1);
        (start < colons).then(|| (start, &line[start..colons]))
    })
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}
