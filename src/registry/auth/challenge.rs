//! Parses `WWW-Authenticate`.

use std::collections::BTreeMap;

/// Maximum size of a header that is parsed, bytes; as much as a whole response head may have.
const MAX_HEADER_LEN: usize = 64 * 1024;
/// Maximum number of challenges that are parsed of one response.
const MAX_CHALLENGES: usize = 64;

/// One way to authenticate that a server offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// In lower case, like `bearer`.
    pub(crate) scheme: String,
    /// By name in lower case, without `scope`; the first value of a repeated name.
    pub(crate) params: BTreeMap<String, String>,
    /// The values of `scope`, which may be repeated; without empty ones.
    pub(crate) scopes: Vec<String>,
}

impl Challenge {
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.params.get(name).map(String::as_str)
    }
}

/// Returns the challenges of all `WWW-Authenticate` headers, in their order, by
/// [RFC 9110, section 11.6.1](https://www.rfc-editor.org/rfc/rfc9110#section-11.6.1).
///
/// Accepts unquoted values with characters that need quotes, like a URL, and blanks between parameters.
/// A malformed challenge and the rest of its header are ignored.
pub(crate) fn parse<'a>(headers: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    let readable = headers.filter(|header| header.len() <= MAX_HEADER_LEN);
    readable.flat_map(Challenges::of).take(MAX_CHALLENGES).collect()
}

/// The challenges of one header.
struct Challenges<'a> {
    rest: &'a str,
}

impl<'a> Challenges<'a> {
    fn of(header: &'a str) -> Self {
        Challenges { rest: header }
    }
}

impl Iterator for Challenges<'_> {
    type Item = Challenge;

    fn next(&mut self) -> Option<Challenge> {
        self.skip_list_separators();
        let challenge = self.challenge();
        if challenge.is_none() {
            self.rest = "";
        }
        challenge
    }
}

impl Challenges<'_> {
    fn challenge(&mut self) -> Option<Challenge> {
        let scheme = self.word()?;
        let mut challenge = Challenge { scheme: scheme.to_ascii_lowercase(), ..Challenge::default() };
        if !self.at_element_end() && !self.starts_with_space() {
            return None;
        }
        self.skip_space();
        if self.skip_token68() {
            return Some(challenge);
        }
        while let Some(name) = self.param_name() {
            let value = self.value()?;
            if !self.at_element_end() && !self.starts_with_space() {
                return None;
            }
            match (name.to_ascii_lowercase(), value) {
                (_, None) => {}
                (name, Some(scope)) if name == "scope" => challenge.scopes.push(scope),
                (name, Some(value)) => {
                    challenge.params.entry(name).or_insert(value);
                }
            }
            self.skip_list_separators();
        }
        challenge.scopes.retain(|scope| !scope.is_empty());
        Some(challenge)
    }

    /// Takes a name with its `=`. A word without one belongs to the next challenge, and stays.
    fn param_name(&mut self) -> Option<String> {
        let before = self.rest;
        if let Some(name) = self.word() {
            self.skip_space();
            if self.skip('=') {
                self.skip_space();
                return Some(name);
            }
        }
        self.rest = before;
        None
    }

    /// Takes a value. `Some(None)` is an empty unquoted one, which counts as an absent parameter; `None` is a
    /// string without an end.
    fn value(&mut self) -> Option<Option<String>> {
        if self.rest.starts_with('"') {
            return self.quoted().map(Some);
        }
        let end = self.rest.find([',', '"', ' ', '\t']).unwrap_or(self.rest.len());
        let value = self.take(end);
        Some((!value.is_empty()).then(|| value.to_owned()))
    }

    /// Takes a token; some servers put quotes around it.
    fn word(&mut self) -> Option<String> {
        if self.rest.starts_with('"') {
            return self.quoted().filter(|word| !word.is_empty());
        }
        let end = self.rest.find(|c| !is_token_char(c)).unwrap_or(self.rest.len());
        Some(self.take(end).to_owned()).filter(|word| !word.is_empty())
    }

    fn quoted(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut chars = self.rest.strip_prefix('"')?.chars();
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => text.push(chars.next()?),
                c => text.push(c),
            }
        }
        self.rest = chars.as_str();
        Some(text)
    }

    /// Skips a token68, which schemes like `Negotiate` have in place of parameters.
    fn skip_token68(&mut self) -> bool {
        let before = self.rest;
        let is_char = |c: char| c.is_ascii_alphanumeric() || "-._~+/".contains(c);
        self.rest = self.rest.trim_start_matches(is_char).trim_start_matches('=');
        let found = self.rest.len() < before.len() && self.at_element_end();
        if !found {
            self.rest = before;
        }
        found
    }

    fn at_element_end(&self) -> bool {
        let rest = self.rest.trim_start_matches([' ', '\t']);
        rest.is_empty() || rest.starts_with(',')
    }

    fn starts_with_space(&self) -> bool {
        self.rest.starts_with([' ', '\t'])
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn skip_list_separators(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', ',']);
    }

    fn skip(&mut self, c: char) -> bool {
        let after = self.rest.strip_prefix(c);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    /// Takes the text up to `end`, an offset that a search in `rest` found.
    fn take(&mut self, end: usize) -> &str {
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }
}

/// See [RFC 9110, section 5.6.2](https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2).
fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A challenge in the tables below.
    type Told<'a> = (&'a str, &'a [(&'a str, &'a str)]);

    fn challenge(&(scheme, params): &Told<'_>) -> Challenge {
        Challenge {
            scheme: scheme.to_owned(),
            params: params
                .iter()
                .filter(|(name, _)| *name != "scope")
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            scopes: params
                .iter()
                .filter(|(name, _)| *name == "scope")
                .map(|&(_, value)| value.to_owned())
                .collect(),
        }
    }

    #[test]
    fn challenges_are_parsed_by_rfc_9110() {
        let cases: &[(&[&str], &[Told<'_>])] = &[
            (
                &[r#"Bearer realm="https://a.io/token",service="r.io",scope="repository:app:pull,push""#],
                &[(
                    "bearer",
                    &[
                        ("realm", "https://a.io/token"),
                        ("service", "r.io"),
                        ("scope", "repository:app:pull,push"),
                    ],
                )],
            ),
            (&["BaSiC ReAlM=\"Any Case\""], &[("basic", &[("realm", "Any Case")])]),
            (&["Bearer\trealm=\"x\""], &[("bearer", &[("realm", "x")])]),
            (&["Bearer  "], &[("bearer", &[])]),
            (&[r#"Basic realm="a \"quoted\" \\ b""#], &[("basic", &[("realm", r#"a "quoted" \ b"#)])]),
            (&["Basic realm=plain"], &[("basic", &[("realm", "plain")])]),
            (&["Basic realm=/"], &[("basic", &[("realm", "/")])]),
            (&["Bearer realm=https://x/t"], &[("bearer", &[("realm", "https://x/t")])]),
            (&[r#""Basic" "realm"=/"#], &[("basic", &[("realm", "/")])]),
            (&[r#"Bearer realm="x",empty="""#], &[("bearer", &[("realm", "x"), ("empty", "")])]),
            (&[r#"Bearer realm="x",service="#], &[("bearer", &[("realm", "x")])]),
            (&[r#"Bearer realm="x",realm="y""#], &[("bearer", &[("realm", "x")])]),
            (
                &[r#"Bearer  realm = "x"  ,, service="y" ,"#],
                &[("bearer", &[("realm", "x"), ("service", "y")])],
            ),
            // Several in one header, and several headers.
            (
                &[r#"Digest realm="a, b", nonce="n", Basic realm="c", Bearer realm="d""#],
                &[
                    ("digest", &[("realm", "a, b"), ("nonce", "n")]),
                    ("basic", &[("realm", "c")]),
                    ("bearer", &[("realm", "d")]),
                ],
            ),
            (&["Negotiate", "Basic realm=\"x\""], &[("negotiate", &[]), ("basic", &[("realm", "x")])]),
            (&["Negotiate, Basic realm=x"], &[("negotiate", &[]), ("basic", &[("realm", "x")])]),
            (
                &["Negotiate YIIJvgYG+/==, NTLM TlRM, Basic realm=x"],
                &[("negotiate", &[]), ("ntlm", &[]), ("basic", &[("realm", "x")])],
            ),
            // Blanks between parameters, and between challenges.
            (
                &[r#"Bearer realm="https://a.io/t" service="r.io"  scope="repository:app:pull""#],
                &[(
                    "bearer",
                    &[("realm", "https://a.io/t"), ("service", "r.io"), ("scope", "repository:app:pull")],
                )],
            ),
            (
                &[r#"Basic realm=Dev charset=UTF-8 Bearer realm="x""#],
                &[("basic", &[("realm", "Dev"), ("charset", "UTF-8")]), ("bearer", &[("realm", "x")])],
            ),
            // Several scopes are several, and an empty one is none.
            (
                &[r#"Bearer realm="x",scope="a:b:pull",scope="",scope="c:d:pull e:f:pull""#],
                &[("bearer", &[("realm", "x"), ("scope", "a:b:pull"), ("scope", "c:d:pull e:f:pull")])],
            ),
            // A malformed challenge ends its own header only.
            (&[r#"Basic realm="Dev"charset="UTF-8""#, "Basic realm=x"], &[("basic", &[("realm", "x")])]),
            (&[r#"Basic realm=x, Bearer realm="no end"#], &[("basic", &[("realm", "x")])]),
            (&["realm=\"x\"", "=", "\"", "", ",,", "ü"], &[]),
        ];
        for (headers, expected) in cases {
            let expected: Vec<Challenge> = expected.iter().map(challenge).collect();
            assert_eq!(parse(headers.iter().copied()), expected, "{headers:?}");
        }
    }

    #[test]
    fn what_a_server_sends_is_bounded() {
        let many = "Negotiate, ".repeat(500);
        assert_eq!(parse([many.as_str()].into_iter()).len(), MAX_CHALLENGES);
        let long = format!("Basic realm=\"{}\"", "x".repeat(MAX_HEADER_LEN));
        assert_eq!(parse([long.as_str()].into_iter()), []);
        let wide: String = (0..1000).map(|n| format!("p{n}=1,")).collect();
        assert_eq!(parse([format!("Basic {wide}").as_str()].into_iter())[0].params.len(), 1000);
    }

    fn quoted(text: &str) -> String {
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
    }

    proptest! {
        #[test]
        fn no_header_panics(header in any::<String>(), like in r#"((Bearer|Basic|a|"|\\|=|,| |/){0,3}){0,8}"#) {
            parse([header.as_str(), like.as_str()].into_iter());
        }

        #[test]
        fn what_was_written_is_read_back(
            written in proptest::collection::vec(
                ("[a-z]{1,8}", proptest::collection::btree_map("[a-rt-z]{1,8}", "[ -~ü]{0,12}", 1..4)),
                1..5,
            )
        ) {
            let challenges: Vec<Challenge> =
                written.into_iter().map(|(scheme, params)| Challenge { scheme, params, scopes: Vec::new() }).collect();
            let text: Vec<String> = challenges
                .iter()
                .map(|c| {
                    let params: Vec<String> =
                        c.params.iter().map(|(name, value)| format!("{name}={}", quoted(value))).collect();
                    format!("{} {}", c.scheme, params.join(", "))
                })
                .collect();
            prop_assert_eq!(parse([text.join(", ").as_str()].into_iter()), challenges);
        }
    }
}
