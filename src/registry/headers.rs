//! Headers that decide what happens to bytes and to time: `Content-Range` and `Retry-After`.

use std::time::{Duration, SystemTime};

/// Which bytes of a blob a 206 brings, by
/// [RFC 9110, section 14.4](https://www.rfc-editor.org/rfc/rfc9110#section-14.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentRange {
    /// The first byte's offset.
    pub(crate) first: u64,
    /// The last byte's offset; not before the first's.
    pub(crate) last: u64,
    /// The blob's length, if the server knows it; past the last byte.
    pub(crate) complete: Option<u64>,
}

impl ContentRange {
    /// Reads the answer's `Content-Range` headers, of which there must be one; `None` for anything
    /// that cannot be relied on.
    pub(crate) fn parse<'a>(mut headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let header = headers.next().filter(|_| headers.next().is_none())?;
        let (unit, rest) = header.trim().split_once(' ')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (range, complete) = rest.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last) = (decimal(first)?, decimal(last)?);
        let complete = if complete == "*" { None } else { Some(decimal(complete)?) };
        let is_sound = first <= last && complete.is_none_or(|complete| last < complete);
        is_sound.then_some(ContentRange { first, last, complete })
    }
}

/// How long the server asks to be left alone, by
/// [RFC 9110, section 10.2.3](https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3): seconds, or a
/// date; never longer than `max`. A date that has passed is zero, and nonsense is `None`.
pub(crate) fn retry_after(header: &str, now: SystemTime, max: Duration) -> Option<Duration> {
    let header = header.trim();
    let is_number = !header.is_empty() && header.bytes().all(|b| b.is_ascii_digit());
    let delay = if is_number {
        // A number too large to read is only a very long time.
        Duration::from_secs(decimal(header).unwrap_or(u64::MAX))
    } else {
        httpdate::parse_http_date(header).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(delay.min(max))
}

/// Digits only: no sign, no space, nothing that overflows.
fn decimal(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_content_range_is_read_strictly() {
        let range = |first, last, complete| Some(ContentRange { first, last, complete });
        let cases: &[(&[&str], Option<ContentRange>)] = &[
            (&["bytes 0-0/1"], range(0, 0, Some(1))),
            (&["bytes 010-020/030"], range(10, 20, Some(30))),
            (&["Bytes 1-2/*"], range(1, 2, None)),
            (&["bytes 2-1/3"], None),
            (&["bytes 1-3/3"], None),
            (&["bytes */3"], None),
            (&["bytes 1-2/"], None),
            (&["bytes 1-2/3a"], None),
            (&["bytes x-2/3"], None),
            (&["bytes +1-2/3"], None),
            (&["bytes 1 - 2/3"], None),
            (&["bytes=1-2/3"], None),
            (&["items 1-2/3"], None),
            (&["bytes 1-2"], None),
            (&["bytes 0-18446744073709551616/*"], None),
            (&["bytes 1-2/3", "bytes 1-2/3"], None),
            (&[""], None),
            (&[], None),
        ];
        for (headers, expected) in cases {
            assert_eq!(ContentRange::parse(headers.iter().copied()), *expected, "{headers:?}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_never_more_than_the_caller_allows() {
        let now = httpdate::parse_http_date("Wed, 21 Oct 2015 07:28:00 GMT").unwrap();
        let max = Duration::from_secs(120);
        let cases = [
            ("0", Some(0)),
            ("17", Some(17)),
            (" 17 ", Some(17)),
            ("121", Some(120)),
            ("99999999999999999999", Some(120)),
            ("Wed, 21 Oct 2015 07:28:30 GMT", Some(30)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", Some(0)),
            ("Sun, 21 Oct 2035 07:28:00 GMT", Some(120)),
            ("Wednesday, 21-Oct-15 07:28:30 GMT", Some(30)),
            ("-1", None),
            ("1.5", None),
            ("1e3", None),
            ("0x10", None),
            ("2015-10-21T07:28:00Z", None),
            ("soon", None),
            ("", None),
        ];
        for (header, seconds) in cases {
            assert_eq!(retry_after(header, now, max), seconds.map(Duration::from_secs), "{header:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(any in any::<String>(), like in "(bytes )?[0-9*/ -]{0,44}") {
            for header in [any.as_str(), like.as_str()] {
                let range = ContentRange::parse([header].into_iter());
                prop_assert!(range.is_none_or(|r| r.first <= r.last));
                retry_after(header, SystemTime::UNIX_EPOCH, Duration::MAX);
            }
        }
    }
}
