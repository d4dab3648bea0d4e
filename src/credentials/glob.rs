//! Patterns for one part of a host name: Go's
//! [`filepath.Match`](https://pkg.go.dev/path/filepath#Match), which kubelet uses.

use std::iter::Peekable;
use std::str::Chars;

/// Returns whether the whole of `text` matches `pattern`; a malformed pattern matches nothing.
///
/// `*` matches any run of characters, `?` any character, `[a-z]` and `[^a-z]` a character inside or outside of a
/// class, and `\` makes the next character literal. `*` and `?` do not match a `/`.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    parse(pattern).is_some_and(|pieces| run(&pieces, text))
}

enum Piece {
    Star,
    One(Set),
}

enum Set {
    Any,
    Literal(char),
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Set {
    fn has(&self, c: char) -> bool {
        match self {
            Set::Any => c != '/',
            Set::Literal(literal) => c == *literal,
            Set::Class { negated, ranges } => {
                ranges.iter().any(|&(low, high)| (low..=high).contains(&c)) != *negated
            }
        }
    }
}

fn parse(pattern: &str) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        pieces.push(match c {
            '*' => Piece::Star,
            '?' => Piece::One(Set::Any),
            '[' => Piece::One(class(&mut rest)?),
            '\\' => Piece::One(Set::Literal(rest.next()?)),
            literal => Piece::One(Set::Literal(literal)),
        });
    }
    Some(pieces)
}

/// Parses a class behind its `[`: at least one range, then `]`.
fn class(rest: &mut Peekable<Chars<'_>>) -> Option<Set> {
    let negated = rest.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && rest.next_if_eq(&']').is_some() {
            return Some(Set::Class { negated, ranges });
        }
        let low = class_char(rest)?;
        let high = if rest.next_if_eq(&'-').is_some() { class_char(rest)? } else { low };
        ranges.push((low, high));
    }
}

/// Parses one end of a range; `-` and `]` need a `\` before them.
fn class_char(rest: &mut Peekable<Chars<'_>>) -> Option<char> {
    match rest.next()? {
        '-' | ']' => None,
        '\\' => rest.next(),
        c => Some(c),
    }
}

/// Matches with backtracking to the last star only: the cost is at most the pattern's length times the text's.
fn run(pieces: &[Piece], text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let (mut piece, mut at) = (0, 0);
    let mut last_star = None;
    loop {
        match (pieces.get(piece), text.get(at)) {
            (None, None) => return true,
            (Some(Piece::Star), _) => {
                last_star = Some((piece, at));
                piece += 1;
                continue;
            }
            (Some(Piece::One(set)), Some(&c)) if set.has(c) => {
                piece += 1;
                at += 1;
                continue;
            }
            _ => {}
        }
        match last_star {
            // The star matches one more character.
            Some((star, from)) if text.get(from).is_some_and(|&c| c != '/') => {
                last_star = Some((star, from + 1));
                piece = star + 1;
                at = from + 1;
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// From the table of Go's own tests, `path/filepath/match_test.go`.
    const AS_GO_HAS_IT: &[(&str, &str, bool)] = &[
        ("abc", "abc", true),
        ("*", "abc", true),
        ("*c", "abc", true),
        ("a*", "a", true),
        ("a*", "abc", true),
        ("a*", "ab/c", false),
        ("a*/b", "abc/b", true),
        ("a*/b", "a/c/b", false),
        ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
        ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
        ("a*b?c*x", "abxbbxdbxebxczzx", true),
        ("a*b?c*x", "abxbbxdbxebxczzy", false),
        ("ab[c]", "abc", true),
        ("ab[b-d]", "abc", true),
        ("ab[e-g]", "abc", false),
        ("ab[^c]", "abc", false),
        ("ab[^b-d]", "abc", false),
        ("ab[^e-g]", "abc", true),
        ("a\\*b", "a*b", true),
        ("a\\*b", "ab", false),
        ("a?b", "a☺b", true),
        ("a[^a]b", "a☺b", true),
        ("a???b", "a☺b", false),
        ("[a-ζ]*", "α", true),
        ("*[a-ζ]", "A", false),
        ("a?b", "a/b", false),
        ("a*b", "a/b", false),
        ("[\\]a]", "]", true),
        ("[\\-]", "-", true),
        ("[x\\-]", "x", true),
        ("[x\\-]", "-", true),
        ("[x\\-]", "z", false),
        ("[\\-x]", "x", true),
        ("[\\-x]", "a", false),
        ("[]a]", "]", false),
        ("[-]", "-", false),
        ("[x-]", "x", false),
        ("[x-]", "-", false),
        ("[-x]", "x", false),
        ("\\", "a", false),
        ("[a-b-c]", "a", false),
        ("[", "a", false),
        ("[^", "a", false),
        ("[^bc", "a", false),
        ("a[", "a", false),
        ("*x", "xxx", true),
        ("", "", true),
        ("", "a", false),
    ];

    #[test]
    fn patterns_match_what_gos_filepath_match_matches() {
        for &(pattern, text, expected) in AS_GO_HAS_IT {
            assert_eq!(matches(pattern, text), expected, "{pattern:?} on {text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_matches_itself_once_escaped(text in "[^/]{0,12}") {
            let escaped: String = text.chars().flat_map(|c| ['\\', c]).collect();
            prop_assert!(matches(&escaped, &text));
        }

        #[test]
        fn no_pattern_panics(pattern in r"[\[\]*?\\^a-c-]{0,24}", text in "[a-c/-]{0,24}") {
            matches(&pattern, &text);
        }
    }
}
