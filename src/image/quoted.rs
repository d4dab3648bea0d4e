//! Text from outside, made safe for an error message.

/// Returns `text` as an error message shows it: quoted, escaped, cut after 160 characters.
pub(crate) fn quoted(text: &str) -> String {
    const MAX_CHARS: usize = 160;
    let mut characters = text.chars();
    let shown: String = characters.by_ref().take(MAX_CHARS).collect();
    let more = if characters.next().is_some() { "…" } else { "" };
    format!("{shown:?}{more}")
}
