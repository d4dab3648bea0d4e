//! Image references: parsing, normal form, printing.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;
use crate::image::quoted::quoted;

/// The domain of a name that has none.
const DEFAULT_DOMAIN: &str = "docker.io";
/// The former name of Docker Hub.
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
/// The host that serves [`DEFAULT_DOMAIN`].
const DEFAULT_REGISTRY: &str = "registry-1.docker.io";
/// The prefix of Docker Hub's names without a slash.
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";

const MAX_REPOSITORY_LEN: usize = 255;
const MAX_TAG_LEN: usize = 128;

/// The name of an image: `[HOST[:PORT]/]NAME[:TAG][@DIGEST]`.
///
/// The grammar and the defaults are those of Docker's
/// [`distribution/reference`](https://github.com/distribution/reference/blob/main/reference.go):
/// `alpine` is `docker.io/library/alpine:latest`. Two deliberate differences: a name with tag and
/// digest keeps both, and a host with an underscore is refused, since no host could serve it.
///
/// Two references are equal if their full names are, however they were typed. Cheap to clone.
///
/// ```
/// # fn main() -> Result<(), oci_puller::Error> {
/// let reference: oci_puller::image::Reference = "alpine".parse()?;
/// assert_eq!(reference.to_string(), "docker.io/library/alpine:latest");
/// assert_eq!(reference.registry(), "registry-1.docker.io");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Reference {
    typed: Arc<str>,
    /// `domain/repository`; a domain holds no slash.
    name: Arc<str>,
    tag: Option<Tag>,
    digest: Option<Digest>,
}

#[derive(Clone)]
enum Tag {
    Typed(Arc<str>),
    Default,
}

impl Reference {
    /// Parses a reference as people type it.
    ///
    /// # Errors
    /// [`InvalidReference`](ErrorKind::InvalidReference), with what is wrong; [`Unsupported`](ErrorKind::Unsupported)
    /// for a digest by an algorithm other than sha256 and sha512.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if let Some(why) = familiar_mistake(text) {
            return Err(refusal(text, why));
        }
        let (named, digest) = match text.split_once('@') {
            Some((named, digest)) => (named, Some(parse_digest(text, digest)?)),
            None => (text, None),
        };
        let (domain, remote) = split_domain(named);
        let (repository, tag) = match remote.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (remote, None),
        };
        let prefix = if domain == DEFAULT_DOMAIN && !repository.contains('/') { OFFICIAL_PREFIX } else { "" };
        check_domain(domain)
            .and_then(|()| check_repository(repository, prefix.len() + repository.len()))
            .and_then(|()| tag.map_or(Ok(()), check_tag))
            .map_err(|why| refusal(text, why))?;
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(Tag::Typed(tag.into())),
            (None, None) => Some(Tag::Default),
            (None, Some(_)) => None,
        };
        let name = format!("{domain}/{prefix}{repository}").into();
        Ok(Reference { typed: text.into(), name, tag, digest })
    }

    /// Returns the text that was parsed, unchanged.
    pub fn as_typed(&self) -> &str {
        &self.typed
    }

    /// Returns the host, with its port if one was given, as names are compared: `docker.io`.
    pub fn domain(&self) -> &str {
        self.split_name().0
    }

    /// Returns the path below the host: `library/alpine`.
    pub fn repository(&self) -> &str {
        self.split_name().1
    }

    /// Returns domain and repository: `docker.io/library/alpine`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the tag; `latest` if neither tag nor digest was typed.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_ref().map(|tag| match tag {
            Tag::Typed(tag) => &**tag,
            Tag::Default => DEFAULT_TAG,
        })
    }

    /// Whether the tag is `latest` only because nothing was typed.
    pub fn is_tagged_by_default(&self) -> bool {
        matches!(self.tag, Some(Tag::Default))
    }

    /// Returns the digest.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Returns the host that serves it, with its port if one was given; `docker.io` is served by
    /// `registry-1.docker.io`.
    pub fn registry(&self) -> &str {
        match self.domain() {
            DEFAULT_DOMAIN => DEFAULT_REGISTRY,
            domain => domain,
        }
    }

    /// Returns the short form: `alpine:latest`. It is for people: a repository of 64 hexadecimal digits does
    /// not parse back from it.
    pub fn familiar(&self) -> String {
        let name = match self.split_name() {
            (DEFAULT_DOMAIN, repository) => match repository.strip_prefix(OFFICIAL_PREFIX) {
                Some(official) if !official.contains('/') => official,
                _ => repository,
            },
            _ => self.name(),
        };
        format!("{name}{}", self.suffix())
    }

    /// Returns the same repository at `digest`, without a tag: `docker.io/library/alpine@sha256:…`.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        let typed = format!("{}@{digest}", self.name).into();
        Reference { typed, name: Arc::clone(&self.name), tag: None, digest: Some(digest) }
    }

    fn split_name(&self) -> (&str, &str) {
        self.name.split_once('/').unwrap_or((DEFAULT_DOMAIN, &self.name))
    }

    fn suffix(&self) -> Suffix<'_> {
        Suffix { tag: self.tag(), digest: self.digest() }
    }

    fn identity(&self) -> (&str, Option<&str>, Option<&Digest>) {
        (&self.name, self.tag(), self.digest())
    }
}

/// What follows the name: `[:TAG][@DIGEST]`.
struct Suffix<'a> {
    tag: Option<&'a str>,
    digest: Option<&'a Digest>,
}

impl fmt::Display for Suffix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(tag) = self.tag {
            write!(f, ":{tag}")?;
        }
        match self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, self.suffix())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Reference::parse(text)
    }
}

impl PartialEq for Reference {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Reference {}

impl Hash for Reference {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

fn refusal(text: &str, why: &str) -> Error {
    Error::new(ErrorKind::InvalidReference, format!("{}: {why}", quoted(text)))
}

/// Explains common mistakes.
fn familiar_mistake(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        Some("it is empty")
    } else if text.chars().any(char::is_whitespace) {
        Some("it holds white space")
    } else if text.contains("://") {
        Some("an image name has no scheme; leave out what stands before and with ://")
    } else if text.len() == 64 && text.bytes().all(is_lower_hex) {
        Some("64 hexadecimal digits are an image's id, not a name; with sha256: before them they follow an @")
    } else {
        None
    }
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn parse_digest(text: &str, digest: &str) -> Result<Digest, Error> {
    Digest::parse(digest)
        .map_err(|error| Error::new(error.kind(), format!("{}: {}", quoted(text), error.message())))
}

/// Splits off the domain. The first part is a domain if it has a dot, a colon or an upper-case letter, or is
/// `localhost`; otherwise it belongs to a name of Docker Hub.
fn split_domain(named: &str) -> (&str, &str) {
    match named.split_once('/') {
        Some((LEGACY_DEFAULT_DOMAIN, remote)) => (DEFAULT_DOMAIN, remote),
        Some((first, remote)) if looks_like_domain(first) => (first, remote),
        _ => (DEFAULT_DOMAIN, named),
    }
}

fn looks_like_domain(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.contains(char::is_uppercase)
}

/// Checks `domain ::= host [':' digits]`
fn check_domain(domain: &str) -> Result<(), &'static str> {
    // The port's colon stands after the last bracket of an IPv6 address.
    let address_end = domain.rfind(']').map_or(0, |bracket| bracket + 1);
    let (host, port) = match domain.get(address_end..).and_then(|rest| rest.rfind(':')) {
        Some(colon) => (domain.get(..address_end + colon), domain.get(address_end + colon + 1..)),
        None => (Some(domain), None),
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit())) {
        Err("the port after the host is not a number")
    } else if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        Err("the port after the host is more than 65535")
    } else if host.is_some_and(is_host) {
        Ok(())
    } else {
        Err("what stands before the first slash is no host name; an IPv6 address stands in brackets")
    }
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'),
        None => host.split('.').all(is_host_label),
    }
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Checks `repository ::= component ('/' component)*`; `full_len` counts `library/` too.
fn check_repository(repository: &str, full_len: usize) -> Result<(), &'static str> {
    if repository.contains(char::is_uppercase) {
        Err("the repository must be in lower case")
    } else if !repository.split('/').all(is_component) {
        Err("each part of the repository is lower-case letters and digits, joined by . _ __ or dashes")
    } else if full_len > MAX_REPOSITORY_LEN {
        Err("the repository is longer than 255 characters")
    } else {
        Ok(())
    }
}

/// Checks `component ::= alphanumeric (separator alphanumeric)*`, `separator ::= '.' | '_' | '__' | '-'+`
fn is_component(component: &str) -> bool {
    let is_separator = |byte: &u8| matches!(byte, b'.' | b'_' | b'-');
    let is_alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    bytes.iter().all(|byte| is_alphanumeric(byte) || is_separator(byte))
        && bytes.first().is_some_and(is_alphanumeric)
        && bytes.last().is_some_and(is_alphanumeric)
        && bytes
            .split(is_alphanumeric)
            .all(|gap| matches!(gap, b"" | b"." | b"_" | b"__") || gap.iter().all(|byte| *byte == b'-'))
}

/// Checks `tag ::= word (word | '.' | '-'){0,127}`.
pub(crate) fn check_tag(tag: &str) -> Result<(), &'static str> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if tag.len() > MAX_TAG_LEN {
        Err("the tag is longer than 128 characters")
    } else if !tag.bytes().next().is_some_and(is_word)
        || !tag.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
    {
        Err("a tag consists of letters, digits, _ . and -, and begins with a letter, a digit or _")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_joined_by_one_separator() {
        for good in ["a", "a1", "a.b", "a_b", "a__b", "a-b", "a----b", "a.b__c-d"] {
            assert!(is_component(good), "{good}");
        }
        for bad in ["", ".", "-a", "a-", "a..b", "a___b", "a._b", "a-.b", "A", "ä"] {
            assert!(!is_component(bad), "{bad}");
        }
    }

    #[test]
    fn hosts_are_dns_names_or_addresses_in_brackets() {
        for good in
            ["a", "a.b", "A-1.io", "[::1]", "a:5000", "[fe80::1]:5000", "192.168.0.1:8", "a:65535", "a:00080"]
        {
            assert_eq!(check_domain(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            ".",
            "a.",
            "-a",
            "a_b.c",
            "a:",
            "a:b",
            "[]",
            "[::1",
            "::1",
            "[::1]5",
            "[::1]::5",
            "[::1]a:5",
            "a]:5",
            "a:65536",
            "[::1]:99999",
            "a:184467440737095516165000",
        ] {
            assert!(check_domain(bad).is_err(), "{bad}");
        }
    }
}
