//! Text from outside, as a terminal may show it.

/// Escapes in JSON text what a terminal would act on.
pub(crate) fn escaped_json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match acts_on_terminal(character) && character != '\n' {
            // All of these are in the basic plane, and stand within strings, which have no line breaks.
            true => safe += &format!("\\u{:04x}", u32::from(character)),
            false => safe.push(character),
        }
    }
    safe
}

/// Escapes control characters, and characters that reorder or hide text.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match acts_on_terminal(character) {
            true => safe.extend(character.escape_default()),
            false => safe.push(character),
        }
    }
    safe
}

/// Returns whether a terminal acts on the character, or shows text that differs from what is there.
fn acts_on_terminal(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(character, '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_bidi_characters_are_escaped() {
        let text = "a\u{1b}[2J\u{7}\r\n\u{9b}\u{202e}\u{2066}b\u{e4}";
        assert_eq!(escaped(text), "a\\u{1b}[2J\\u{7}\\r\\n\\u{9b}\\u{202e}\\u{2066}b\u{e4}");
    }
}
