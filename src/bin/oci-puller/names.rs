//! Short names for people, and the names that a store knows.

use oci_puller::image::{Digest, Reference};
use oci_puller::store::{Removed, StoredImage};
use oci_puller::{Error, ErrorKind, PullContext, Store};

/// Hexadecimal digits of a digest that people are shown, as in Docker.
const SHORT: usize = 12;

/// An id is not looked for by fewer digits.
const LEAST: usize = 4;

/// The first digits of a digest.
pub(crate) fn short(digest: &str) -> &str {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.get(..SHORT).unwrap_or(hex)
}

/// An image's name without its host: `library/alpine` is `alpine`.
pub(crate) fn brief(image: &str) -> String {
    let Ok(reference) = Reference::parse(image) else {
        return image.to_owned();
    };
    let repository = reference.repository();
    let repository = repository.strip_prefix("library/").unwrap_or(repository);
    match (reference.tag(), reference.digest()) {
        (Some(tag), _) => format!("{repository}:{tag}"),
        (None, Some(digest)) => format!("{repository}@{}", short(digest.as_str())),
        (None, None) => repository.to_owned(),
    }
}

/// Returns the image in the store that someone means, and the key that the store knows it by: a name as it
/// is typed or as it is pulled, a digest, or the first digits of an id as they are shown.
///
/// # Errors
/// `NotFound`; `NoMatchingPlatform`; `InvalidReference` if it is no name either, or means several images.
pub(crate) fn find(store: &Store, meant: &str) -> Result<(String, StoredImage), Error> {
    let named = |error: Error| error.with_image(meant);
    let normalised = key_of(meant);
    let mut found = None;
    for key in keys(meant, &normalised) {
        if let Some(image) = store.find(key).map_err(named)? {
            found = Some((key.to_owned(), image));
            break;
        }
    }
    let is_digest = Digest::parse(meant).is_ok();
    let mut alike = if is_digest { Vec::new() } else { by_digits(store, meant).map_err(named)? };
    if let Some((_, image)) = &found {
        alike.retain(|other| other.manifest.digest != image.manifest.digest);
    }
    match (found, &alike[..]) {
        (Some(found), []) => Ok(found),
        (None, [image]) => Ok((image.manifest.digest.to_string(), image.clone())),
        (None, []) => Err(named(absent(store, meant, normalised))),
        _ => Err(named(Error::new(
            ErrorKind::InvalidReference,
            "several images are called so, or have ids that begin so; give more digits, or the whole name",
        ))),
    }
}

/// Returns what a name may be stored as: as it is typed, then in full.
fn keys<'a>(meant: &'a str, normalised: &'a Result<String, Error>) -> impl Iterator<Item = &'a str> {
    [meant].into_iter().chain(normalised.as_deref().ok())
}

/// Returns why nothing is found.
fn absent(store: &Store, meant: &str, normalised: Result<String, Error>) -> Error {
    let platforms = keys(meant, &normalised).flat_map(|key| store.platforms_of(key).unwrap_or_default());
    let mut listed: Vec<_> = platforms.map(|platform| platform.to_string()).collect();
    listed.dedup();
    if !listed.is_empty() {
        let text = format!("the store has it for {} only; add --platform", listed.join(", "));
        return Error::new(ErrorKind::NoMatchingPlatform, text);
    }
    let absent = || Error::new(ErrorKind::NotFound, format!("it is not in {}", store.dir().display()));
    normalised.err().unwrap_or_else(absent)
}

/// Removes what someone means: all that a name stands for, or the one image of a digest or an id.
///
/// # Errors
/// As of [`find`], and of a removal.
pub(crate) fn remove(store: &Store, cx: &PullContext, meant: &str) -> Result<Removed, Error> {
    let removed = match find(store, meant) {
        Ok((key, _)) => store.remove(cx, &key),
        // A name of other platforms' images alone is removed, too.
        Err(error) if error.kind() == ErrorKind::NoMatchingPlatform => {
            let typed = store.remove(cx, meant)?;
            match key_of(meant) {
                Ok(key) if typed.names.is_empty() => store.remove(cx, &key),
                _ => Ok(typed),
            }
        }
        Err(error) => Err(error),
    };
    removed.map_err(|error| error.with_image(meant))
}

/// Returns the key by which a store knows an image: a digest as it is, a name in full. A tag beside a digest is left
/// out.
pub(crate) fn key_of(meant: &str) -> Result<String, Error> {
    if Digest::parse(meant).is_ok() {
        return Ok(meant.to_owned());
    }
    let reference = Reference::parse(meant)?;
    Ok(match reference.digest() {
        Some(digest) => reference.with_digest(digest.clone()).to_string(),
        None => reference.to_string(),
    })
}

fn by_digits(store: &Store, meant: &str) -> Result<Vec<StoredImage>, Error> {
    let digits = meant.strip_prefix("sha256:").unwrap_or(meant);
    if digits.len() < LEAST || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(Vec::new());
    }
    let mut images = store.images()?;
    images.retain(|image| image.id.hex().starts_with(digits));
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_their_hosts() {
        let digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        for (image, name) in [
            ("alpine", "alpine:latest".to_owned()),
            ("ghcr.io/team/app:1.2", "team/app:1.2".to_owned()),
            ("[::1]:5000/x", "x:latest".to_owned()),
            (&format!("alpine@{digest}"), "alpine@0123456789ab".to_owned()),
            ("No Name", "No Name".to_owned()),
        ] {
            assert_eq!(brief(image), name);
        }
    }

    #[test]
    fn the_store_knows_names_in_full() {
        let digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        for (meant, key) in [
            ("alpine", "docker.io/library/alpine:latest".to_owned()),
            (digest, digest.to_owned()),
            (&format!("alpine:3@{digest}"), format!("docker.io/library/alpine@{digest}")),
        ] {
            assert_eq!(key_of(meant).unwrap(), key);
        }
    }
}
