//! The `Retry-After` header.

use std::time::{Duration, SystemTime};

/// Parses a `Retry-After` header by
/// [RFC 9110, section 10.2.3](https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3): seconds, or an HTTP
/// date. The delay is capped at `max`; a past date gives zero. Returns `None` for any other text.
pub(crate) fn parse(header: &str, now: SystemTime, max: Duration) -> Option<Duration> {
    let header = header.trim();
    let is_number = !header.is_empty() && header.bytes().all(|b| b.is_ascii_digit());
    let delay = if is_number {
        // A number that overflows is a very long time.
        Duration::from_secs(header.parse().unwrap_or(u64::MAX))
    } else {
        httpdate::parse_http_date(header).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(delay.min(max))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            assert_eq!(parse(header, now, max), seconds.map(Duration::from_secs), "{header:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(any in any::<String>(), like in "[0-9a-zA-Z:, ]{0,32}") {
            for header in [any.as_str(), like.as_str()] {
                parse(header, SystemTime::UNIX_EPOCH, Duration::MAX);
            }
        }
    }
}
