//! The text of a panic.

use std::any::Any;

/// Characters of a panic's text that are kept.
const MAX_LEN: usize = 200;

/// Returns the message that a panic was raised with, as far as it is text; at most 200 characters.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").chars().take(MAX_LEN).collect()
}

#[cfg(test)]
mod tests {
    use std::panic::{catch_unwind, panic_any};

    use super::*;

    #[test]
    fn a_panic_is_told_by_its_message() {
        let long = "x".repeat(1000);
        let caught = [
            catch_unwind(|| panic_any("a literal")),
            catch_unwind(|| panic_any(String::from("a string"))),
            catch_unwind(|| panic_any(7)),
            catch_unwind(|| panic_any(long.clone())),
        ];
        let expected = ["a literal", "a string", "no message", &long[..MAX_LEN]];
        for (caught, expected) in caught.into_iter().zip(expected) {
            assert_eq!(panic_text(&*caught.unwrap_err()), expected);
        }
    }
}
