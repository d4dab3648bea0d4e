//! Bytes and times, for people.

use std::fmt;
use std::time::Duration;

const BYTE_UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];

/// A number of bytes, like `12.6 MB`; a kB is 1,000 bytes.
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (size, unit) = unit_of(self.0);
        f.pad(&format!("{} {unit}", in_unit(self.0, size)))
    }
}

/// How many bytes of how many, like `0.9/12.6 MB`.
pub(crate) struct Share(pub(crate) u64, pub(crate) u64);

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (size, unit) = unit_of(self.1);
        f.pad(&format!("{}/{} {unit}", in_unit(self.0, size), in_unit(self.1, size)))
    }
}

/// The unit that is told with three digits before the point at most, and its bytes.
fn unit_of(bytes: u64) -> (u64, &'static str) {
    let mut size = 1;
    for unit in BYTE_UNITS {
        // 999.95 would print as 1000.0.
        let most = if size == 1 { 1000 } else { size * 1000 - size / 20 };
        if bytes < most {
            return (size, unit);
        }
        size *= 1000;
    }
    (size / 1000, "PB")
}

fn in_unit(bytes: u64, size: u64) -> String {
    match size {
        1 => bytes.to_string(),
        _ => format!("{:.1}", bytes as f64 / size as f64),
    }
}

/// A length of time, like `45 ms`, `1.2 s` or `3 min 5 s`.
pub(crate) struct Time(pub(crate) Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.0.as_secs(), self.0.as_millis());
        f.pad(&match seconds {
            _ if millis < 1000 => format!("{millis} ms"),
            0..60 => format!("{:.1} s", self.0.as_secs_f64()),
            60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
            _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        })
    }
}

/// How long ago something was, roughly, like `3 hours ago`.
pub(crate) struct Ago(pub(crate) Duration);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] = [(86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")];
        let seconds = self.0.as_secs();
        let Some((unit, name)) = UNITS.into_iter().find(|(unit, _)| seconds >= *unit) else {
            return f.pad("just now");
        };
        let count = seconds / unit;
        f.pad(&format!("{count} {name}{} ago", if count == 1 { "" } else { "s" }))
    }
}

/// Reads a length of time: numbers, each with its unit `ms`, `s`, `m`, `h` or `d`, such as `1h30m`. Returns
/// `None` for zero and for a number without a unit.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let number = prefix(&mut rest, |c| c.is_ascii_digit() || c == '.');
        let unit = prefix(&mut rest, |c| c.is_ascii_alphabetic());
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
    }
    (!total.is_zero()).then_some(total)
}

/// Reads a number of bytes: digits, and a unit such as `kB`, `MB`, `KiB`, `MiB`, or none for bytes. Returns
/// `None` for anything else, and for more than 2^64 bytes.
pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let number = prefix(&mut rest, |c| c.is_ascii_digit());
    let unit: u64 = match rest.trim_start() {
        "" | "B" => 1,
        "k" | "kB" | "KB" => 1000,
        "M" | "MB" => 1_000_000,
        "G" | "GB" => 1_000_000_000,
        "T" | "TB" => 1_000_000_000_000,
        "Ki" | "KiB" => 1 << 10,
        "Mi" | "MiB" => 1 << 20,
        "Gi" | "GiB" => 1 << 30,
        "Ti" | "TiB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// Takes from the front what `belongs`.
fn prefix<'a>(rest: &mut &'a str, belongs: impl Fn(char) -> bool) -> &'a str {
    let end = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
    let (taken, left) = rest.split_at(end);
    *rest = left;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_to_five_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (12_600_000, "12.6 MB"),
            (u64::MAX, "18446.7 PB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn a_share_is_told_in_the_unit_of_the_whole() {
        for (done, total, text) in [
            (0, 999, "0/999 B"),
            (922_000, 14_200_000, "0.9/14.2 MB"),
            (14_200_000, 14_200_000, "14.2/14.2 MB"),
        ] {
            assert_eq!(Share(done, total).to_string(), text);
        }
    }

    #[test]
    fn bytes_are_read_with_and_without_a_unit() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("1234", Some(1234)),
            ("5 MB", Some(5_000_000)),
            ("8MiB", Some(8 << 20)),
            ("2Gi", Some(2 << 30)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("99999999TiB", None),
            ("-1", None),
            ("MiB", None),
            ("8 potatoes", None),
        ] {
            assert_eq!(parse_bytes(text), bytes, "{text}");
        }
    }

    #[test]
    fn times_have_the_unit_that_fits() {
        for (millis, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1000, "1.0 s"),
            (59_900, "59.9 s"),
            (61_000, "1 min 1 s"),
            (7_260_000, "2 h 1 min"),
        ] {
            assert_eq!(Time(Duration::from_millis(millis)).to_string(), text);
        }
    }

    #[test]
    fn the_past_is_told_roughly() {
        for (seconds, text) in
            [(0, "just now"), (1, "1 second ago"), (119, "1 minute ago"), (200_000, "2 days ago")]
        {
            assert_eq!(Ago(Duration::from_secs(seconds)).to_string(), text);
        }
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("90", None),
            ("1.5s", Some(1500)),
            ("250ms", Some(250)),
            ("90s", Some(90_000)),
            ("1h30m", Some(5_400_000)),
            ("2d", Some(172_800_000)),
            ("5min", Some(300_000)),
            ("", None),
            ("0", None),
            ("s", None),
            ("-1s", None),
            ("1h30", None),
            ("1 h", None),
            ("1e9", None),
            ("1.2.3s", None),
            ("99999999999999999999d", None),
        ] {
            assert_eq!(parse_duration(text), millis.map(Duration::from_millis), "{text:?}");
        }
    }
}
