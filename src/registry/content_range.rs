//! The `Content-Range` header.

/// The bytes of a blob that a 206 response carries, by
/// [RFC 9110, section 14.4](https://www.rfc-editor.org/rfc/rfc9110#section-14.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentRange {
    /// The first byte's offset.
    pub(crate) first: u64,
    /// The last byte's offset; not before the first's.
    pub(crate) last: u64,
    /// The blob's length, greater than `last`; `None` if the server sent `*`.
    pub(crate) complete: Option<u64>,
}

impl ContentRange {
    /// Parses the response's only `Content-Range` header. Returns `None` if there are none or several, or
    /// if it is not exact.
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

/// Parses digits only: no sign, no space. Returns `None` on overflow.
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

    proptest! {
        #[test]
        fn no_header_panics(any in any::<String>(), like in "(bytes )?[0-9*/ -]{0,44}") {
            for header in [any.as_str(), like.as_str()] {
                let range = ContentRange::parse([header].into_iter());
                prop_assert!(range.is_none_or(|r| r.first <= r.last));
            }
        }
    }
}
