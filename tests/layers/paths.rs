//! The module paths that a source file names.

use crate::source::Source;

/// A path in the code, from the crate's root.
pub(crate) struct Named {
    pub(crate) line: usize,
    pub(crate) module: Vec<String>,
    pub(crate) is_from_root: bool,
}

/// Each path that begins with `crate` or `super`; of a group in braces, each of its paths.
pub(crate) fn paths_named(source: &Source) -> Vec<Named> {
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
pub(crate) fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    lines
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(number, line)| (number, line.split_once(" // ").map_or(line, |(code, _)| code)))
}

/// Each name that `::` follows, and where it stands.
pub(crate) fn idents_before_colons(line: &str) -> impl Iterator<Item = (usize, &str)> {
    line.match_indices("::").filter_map(move |(colons, _)| {
        let start = line[..colons].rfind(|c| !is_of_name(c)).map_or(0, |before| before + 1);
        (start < colons).then(|| (start, &line[start..colons]))
    })
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}
