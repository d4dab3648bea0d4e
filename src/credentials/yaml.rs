//! YAML documents as values of JSON.

use granit_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

/// Lists and mappings that may stand in each other.
const MAX_DEPTH: usize = 16;

/// A list or a mapping whose end has not been read.
enum OpenNode {
    List(Vec<Value>),
    /// Its fields so far, and the key whose value comes next.
    Mapping(Map<String, Value>, Option<String>),
}

/// Reads one document. Scalars become strings, whatever YAML takes them for, since the configurations read here have no
/// other values; fields without a value are left out.
///
/// # Errors
/// Text that says what is wrong: broken YAML, more than one document, a key twice, and what such a configuration has no
/// use for: aliases, tags, keys that are no scalars, deep nesting.
pub(super) fn value(text: &str) -> Result<Value, String> {
    let mut open: Vec<OpenNode> = Vec::new();
    let mut document = None;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| error.to_string())?;
        let refused = |what: &str| Err(format!("{what} (line {})", span.start.line()));
        let value = match event {
            Event::Alias(_) => return refused("aliases are not supported"),
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, _, Some(_))
            | Event::MappingStart(_, _, Some(_)) => return refused("tags are not supported"),
            Event::SequenceStart(..) | Event::MappingStart(..) if open.len() == MAX_DEPTH => {
                return refused("the nesting is too deep");
            }
            Event::SequenceStart(..) => {
                open.push(OpenNode::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(OpenNode::Mapping(Map::new(), None));
                continue;
            }
            Event::Scalar(text, ScalarStyle::Plain, _, None) if matches!(&*text, "" | "~" | "null") => {
                Value::Null
            }
            Event::Scalar(text, _, _, None) => Value::String(text.into_owned()),
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(OpenNode::List(values)) => Value::Array(values),
                Some(OpenNode::Mapping(fields, _)) => Value::Object(fields),
                None => continue,
            },
            _ => continue,
        };
        match open.last_mut() {
            None if document.is_some() => return refused("a second document"),
            None => document = Some(value),
            Some(OpenNode::List(values)) => values.push(value),
            Some(OpenNode::Mapping(fields, key)) => match (key.take(), value) {
                (None, Value::String(name)) if fields.contains_key(&name) => {
                    return refused(&format!("the key {name:?} for the second time"));
                }
                (None, Value::String(name)) => *key = Some(name),
                (None, _) => return refused("a key that is no text"),
                (Some(_), Value::Null) => {}
                (Some(name), value) => drop(fields.insert(name, value)),
            },
        }
    }
    document.ok_or_else(|| "it is empty".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn block_and_flow_notation_become_json() {
        for (text, expected) in [
            ("a: b\nc:\n- d\n- e: f\n  g: 'h'\n", json!({ "a": "b", "c": ["d", { "e": "f", "g": "h" }] })),
            ("# comment\n---\na: {b: [\"c\", d]}\n...\n", json!({ "a": { "b": ["c", "d"] } })),
            ("a: 1\nb: true\nc: 12h\nd: \"null\"", json!({ "a": "1", "b": "true", "c": "12h", "d": "null" })),
            ("a:\nb: ~\nc: null\nd: ''", json!({ "d": "" })),
            ("a: |\n  two\n  lines\nb: >-\n  one\n  line\n", json!({ "a": "two\nlines\n", "b": "one line" })),
            ("{\"json\": [\"is\", \"yaml\"]}", json!({ "json": ["is", "yaml"] })),
        ] {
            assert_eq!(value(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn other_documents_are_refused_with_the_line() {
        let deep = "- ".repeat(MAX_DEPTH + 1) + "a";
        for (text, part) in [
            ("", "empty"),
            ("# nothing", "empty"),
            ("a: b\n---\nc: d", "a second document (line 3)"),
            ("a: b\nc: d\na: e", "\"a\" for the second time (line 3)"),
            ("a: &x b\nc: *x", "aliases are not supported (line 2)"),
            ("a: !!binary aGk=", "tags are not supported (line 1)"),
            ("? [a]\n: b", "a key that is no text"),
            (&deep, "too deep"),
            ("a: b\n c: d", "line 2"),
            ("a: 'b", "line"),
            ("a:\n\tb: c", "line 2"),
        ] {
            let Err(error) = value(text) else { panic!("{text:?} is accepted") };
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
