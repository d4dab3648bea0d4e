//! Compares the source files with the tables.

use std::collections::{BTreeMap, BTreeSet};

use crate::paths::{Named, code_lines, idents_before_colons, paths_named};
use crate::rooms::{FACES, FLOORS, GROUND, HIDDEN_CRATES, ROOMS};
use crate::source::Source;

pub(crate) fn violations(sources: &[Source]) -> Vec<String> {
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
pub(crate) fn floor(room: &str, part: &str) -> Option<usize> {
    let (_, floors) = FLOORS.iter().find(|(with_floors, _)| *with_floors == room)?;
    floors.iter().position(|floor| floor.contains(&part))
}

/// The sets of files that import each other, each sorted. A `mod.rs` counts as importing its parts.
pub(crate) fn circles(sources: &[Source]) -> Vec<Vec<String>> {
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
