//! The `Link` header, as far as lists that come in pages use it.

/// Returns the target of the first link with `rel="next"`, by
/// [RFC 8288](https://www.rfc-editor.org/rfc/rfc8288#section-3). The target may be relative.
pub(super) fn next<'a>(headers: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    headers.flat_map(Links).find(|(_, params)| is_next(params)).map(|(target, _)| target)
}

/// The links of one header: target and parameters.
struct Links<'a>(&'a str);

impl<'a> Iterator for Links<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let (_, rest) = self.0.split_once('<')?;
        let (target, rest) = rest.split_once('>')?;
        let (params, rest) = rest.split_at(end_of_params(rest));
        self.0 = rest;
        Some((target, params))
    }
}

/// Returns the offset of the comma that ends the parameters. A comma inside quotes does not.
fn end_of_params(params: &str) -> usize {
    let mut is_quoted = false;
    let mut is_escaped = false;
    let end = params.find(|c| {
        let ends = c == ',' && !is_quoted;
        is_quoted ^= c == '"' && !is_escaped;
        is_escaped = c == '\\' && is_quoted && !is_escaped;
        ends
    });
    end.unwrap_or(params.len())
}

fn is_next(params: &str) -> bool {
    params.split(';').filter_map(|param| param.split_once('=')).any(|(name, value)| {
        let mut relations = value.trim().trim_matches('"').split_ascii_whitespace();
        name.trim().eq_ignore_ascii_case("rel")
            && relations.any(|relation| relation.eq_ignore_ascii_case("next"))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_next_page_is_found_among_other_links() {
        let cases: &[(&[&str], Option<&str>)] = &[
            (&["</v2/app/referrers/x?last=a&n=5>; rel=\"next\""], Some("/v2/app/referrers/x?last=a&n=5")),
            (&["<https://r.io/x>;rel=next"], Some("https://r.io/x")),
            (&["<a>; rel=\"prev\", <b>; title=\"x, <y>; rel=next\"; REL=\"last Next\""], Some("b")),
            (&["<a>; rel=\"prev\"", "<b?x=1,2>; rel=\"next\""], Some("b?x=1,2")),
            (&["<a>; rel=\"first\""], None),
            (&["<a>"], None),
            (&["<a; rel=\"next\""], None),
            (&["a; rel=\"next\"", ""], None),
            (&[], None),
        ];
        for (headers, expected) in cases {
            assert_eq!(next(headers.iter().copied()), *expected, "{headers:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(header in any::<String>(), like in r#"(<|>|;|,|"|\\|rel=|next| |é){0,16}"#) {
            let _ = next([header.as_str(), like.as_str()].into_iter());
        }
    }
}
