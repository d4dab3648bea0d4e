//! Standard output: the results, as a table for people or as JSON for programs.

use std::io::{self, Write};

use serde::Serialize;

use crate::escape::{escaped, escaped_json};
use crate::exit::Exit;

/// Writes text as it is.
pub(crate) fn raw(text: &str) -> Result<(), Exit> {
    bytes(text.as_bytes())
}

/// Writes bytes as they are.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Exit> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Exit::Output)
}

/// Writes one line. What a terminal would obey is escaped.
pub(crate) fn line(text: &str) -> Result<(), Exit> {
    raw(&format!("{}\n", escaped(text)))
}

/// Writes one JSON object on one line. What a terminal would obey is escaped as JSON does it.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Exit> {
    let text = serde_json::to_string(value).map_err(|error| Exit::Output(error.into()))?;
    raw(&format!("{}\n", escaped_json(&text)))
}

/// Writes JSON with a line for each field, escaped in the same way.
pub(crate) fn pretty_json(value: &impl Serialize) -> Result<(), Exit> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Exit::Output(error.into()))?;
    raw(&format!("{}\n", escaped_json(&text)))
}

/// Rows of words under a headline, each column as wide as its widest word.
pub(crate) struct Table<const N: usize> {
    align: [Align; N],
    rows: Vec<[String; N]>,
}

/// Which side of its column a word stands on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(columns: [(&str, Align); N]) -> Self {
        Table {
            align: columns.map(|(_, align)| align),
            rows: vec![columns.map(|(title, _)| title.to_owned())],
        }
    }

    pub(crate) fn row(&mut self, words: [String; N]) {
        self.rows.push(words.map(|word| escaped(&word)));
    }

    /// Whether there is nothing but the headline.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }
}

impl<const N: usize> std::fmt::Display for Table<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut widths = [0; N];
        for (width, column) in widths.iter_mut().zip(0..) {
            *width = self
                .rows
                .iter()
                .map(|row| row.get(column).map_or(0, |word| width_of(word)))
                .max()
                .unwrap_or(0);
        }
        for row in &self.rows {
            let mut line = String::new();
            for ((word, width), align) in row.iter().zip(widths).zip(self.align) {
                let gap = if line.is_empty() { "" } else { "  " };
                line += &match align {
                    Align::Left => format!("{gap}{word:<width$}"),
                    Align::Right => format!("{gap}{word:>width$}"),
                };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

fn width_of(word: &str) -> usize {
    word.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_word() {
        let mut table = Table::new([("NAME", Align::Left), ("SIZE", Align::Right), ("", Align::Left)]);
        table.row(["a".into(), "12.6 MB".into(), "x".into()]);
        table.row(["longer".into(), "1 B".into(), String::new()]);
        assert_eq!(table.to_string(), "NAME       SIZE\na       12.6 MB  x\nlonger      1 B\n");
    }
}
