//! Values of the image world; no I/O, no threads.

pub mod digest;
pub mod manifest;
pub mod platform;
pub mod reference;

/// `text` as an error message shows it: in quotes, escaped, and not longer than a line or two.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN: usize = 160;
    let mut characters = text.chars();
    let shown: String = characters.by_ref().take(SHOWN).collect();
    let more = if characters.next().is_some() { "…" } else { "" };
    format!("{shown:?}{more}")
}
