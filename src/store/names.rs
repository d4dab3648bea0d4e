//! The rules for names: which ones an image may have, and what a user's key means.
//!
//! A name that holds a digest is a promise about the bytes. `index.json` and archives are written by
//! others too, so such a name counts only where the bytes keep the promise, and a digest or an id is
//! never looked up among the names.

use crate::image::digest::Digest;
use crate::image::quoted;

/// The longest name that an archive or a layout may give an image, bytes.
const MAX_NAME: usize = 255;

/// What a user calls an image by.
#[derive(Debug)]
pub(super) enum ImageKey<'a> {
    /// The digest of a manifest, of an index, or an image's id.
    Digest(Digest),
    /// A name, as it is written.
    Name(&'a str),
}

impl<'a> ImageKey<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        match digest_in(text) {
            Some(digest) => ImageKey::Digest(digest),
            None => ImageKey::Name(text),
        }
    }
}

/// Returns the digest that the text is, with its algorithm or as an id's 64 digits alone.
fn digest_in(text: &str) -> Option<Digest> {
    let is_bare = text.len() == 64 && !text.contains(':');
    if is_bare { Digest::parse(&format!("sha256:{text}")).ok() } else { Digest::parse(text).ok() }
}

/// Splits `repository@digest`, also with a tag before the `@`.
pub(super) fn pinned(name: &str) -> Option<(&str, Digest)> {
    let (repository, digest) = name.split_once('@')?;
    Some((repository, Digest::parse(digest).ok()?))
}

/// Returns a name without its tag and digest.
pub(super) fn repository_of(name: &str) -> &str {
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

/// Returns whether a name could be taken for a digest or for an id with its algorithm.
pub(super) fn is_like_a_digest(name: &str) -> bool {
    let has_algorithm = name.split_once(':').is_some_and(|(algorithm, hex)| {
        let is_known = ["sha256", "sha512"].iter().any(|known| algorithm.eq_ignore_ascii_case(known));
        is_known && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    let is_hex = name.bytes().all(|byte| byte.is_ascii_hexdigit());
    has_algorithm || (is_hex && matches!(name.len(), 64 | 128))
}

/// Checks a name that an archive or a layout gives an image whose manifest or index is `target`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(name: &str, target: &Digest) -> Result<(), String> {
    let shown = quoted(name);
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(|byte| matches!(byte, 0x20..=0x7e)) {
        return Err(format!("the name {shown} is not 1 to {MAX_NAME} printable ASCII characters"));
    }
    check_digest(name, target)
}

/// Checks the same of a name that is a reference.
pub(super) fn check_digest(name: &str, target: &Digest) -> Result<(), String> {
    let shown = quoted(name);
    if is_like_a_digest(name) {
        return Err(format!("the name {shown} is a digest, which no image may be called"));
    }
    match pinned(name) {
        Some((_, digest)) if digest == *target => Ok(()),
        Some(_) => Err(format!("the name {shown} is not for this content, which is {target}")),
        None if has_digest_algorithm(name) => Err(format!("the name {shown} ends with what is no digest")),
        None => Ok(()),
    }
}

fn has_digest_algorithm(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["@sha256:", "@sha512:"].iter().any(|start| name.contains(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_digest_is_for_that_digest_alone() {
        let (target, other) = (Digest::sha256(b"a"), Digest::sha256(b"b"));
        let long = "a".repeat(MAX_NAME);
        let good = ["v1", "alpine", "any text, of 7-bit ASCII~", "a@b", &long, &format!("app@{target}")];
        for name in good {
            assert_eq!(check(name, &target), Ok(()), "{name}");
        }
        let bad = [
            String::new(),
            format!("{long}a"),
            "a\u{1b}[2Jb".to_owned(),
            "a\nb".to_owned(),
            "\u{e4}".to_owned(),
            format!("app@{other}"),
            format!("app:1@{other}"),
            format!("app@{target} "),
            format!("app@{}", target.as_str().to_uppercase()),
            format!("app@{target}@{other}"),
            target.to_string(),
            other.to_string(),
            other.hex().to_owned(),
            other.as_str().to_uppercase(),
            "sha256:abcd".to_owned(),
        ];
        for name in &bad {
            assert!(check(name, &target).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_key_that_is_a_digest_is_no_name() {
        let digest = Digest::sha256(b"a");
        for text in [digest.as_str(), digest.hex()] {
            assert!(matches!(ImageKey::of(text), ImageKey::Digest(found) if found == digest), "{text}");
        }
        for text in ["a", "app@sha256:0", "sha256", "deadbeef"] {
            assert!(matches!(ImageKey::of(text), ImageKey::Name(_)), "{text}");
        }
    }

    #[test]
    fn a_repository_is_a_name_without_tag_and_digest() {
        for name in ["r:5/a", "r:5/a:1", "r:5/a@sha256:0", "r:5/a:1@sha256:0"] {
            assert_eq!(repository_of(name), "r:5/a", "{name}");
        }
    }
}
