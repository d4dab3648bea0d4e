//! Durations in the syntax of Go: `300ms`, `1.5s`, `2h45m`.

use std::time::Duration;

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Parses a duration by the rules of Go's [`time.ParseDuration`](https://pkg.go.dev/time#ParseDuration); `None` for
/// a negative one, and for any other text.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanoseconds: u64 = 0;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?);
        let (unit, after) =
            after.split_at(after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len()));
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
        nanoseconds = nanoseconds.checked_add(scaled(number, *scale)?)?;
        rest = after;
    }
    Some(Duration::from_nanos(nanoseconds))
}

/// Returns a decimal number times `scale`, truncated to whole nanoseconds.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut digit_scale = scale;
    let mut parts: u64 = 0;
    for digit in fraction.bytes() {
        // The division truncates less than one nanosecond for each digit.
        parts += u64::from(digit - b'0') * digit_scale / 10;
        digit_scale /= 10;
    }
    whole.checked_mul(scale)?.checked_add(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let cases = [
            ("0", Some(Duration::ZERO)),
            ("3s", Some(Duration::from_secs(3))),
            ("+3s", Some(Duration::from_secs(3))),
            ("1500ms", Some(Duration::from_millis(1500))),
            ("1.5s", Some(Duration::from_millis(1500))),
            (".5s", Some(Duration::from_millis(500))),
            ("1.s", Some(Duration::from_secs(1))),
            ("2h45m", Some(Duration::from_secs(9900))),
            ("1h2m3.25s", Some(Duration::from_millis(3_723_250))),
            ("7µs", Some(Duration::from_micros(7))),
            ("9us", Some(Duration::from_micros(9))),
            ("12ns", Some(Duration::from_nanos(12))),
            ("-3s", None),
            ("3", None),
            ("s", None),
            (".s", None),
            ("1.2.3s", None),
            ("3 s", None),
            ("3d", None),
            ("", None),
            ("+", None),
            ("99999999999h", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(any in any::<String>(), like in "([0-9.]{0,22}(h|m|s|ms|µs|ns)?){0,4}") {
            parse(&any);
            parse(&like);
        }
    }
}
