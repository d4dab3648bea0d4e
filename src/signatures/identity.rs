//! Which image a signature must name: the `signedIdentity` of
//! [containers-policy.json(5)](https://github.com/containers/image/blob/v5.36.0/docs/containers-policy.json.5.md).

use crate::error::{Error, ErrorKind};
use crate::image::reference::Reference;

/// Which image a signature must name to count for the image that is pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Identity {
    /// The same repository, by any tag. The default of [`Signer`](super::Signer): cosign records no tag.
    MatchRepository,
    /// The same repository and tag; for an image that is pulled by digest, the same repository. The default of
    /// `policy.json`.
    MatchRepoDigestOrExact,
    /// The same repository and tag; an image that is pulled by digest never matches.
    MatchExact,
    /// This reference, whatever is pulled.
    ExactReference(String),
    /// This repository, whatever is pulled.
    ExactRepository(String),
    /// As `MatchRepoDigestOrExact`, after the image's prefix was replaced: for mirrors.
    Remap {
        /// A host, or a host and the beginning of a path: `mirror.example.com/team`.
        prefix: String,
        /// What stands in its place in signatures.
        signed_prefix: String,
    },
}

/// The image that a signature names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SignedName {
    /// `HOST/REPOSITORY`, normalized.
    name: String,
    tag: Option<String>,
}

impl SignedName {
    /// Parses the name in a signature; `None` if it is no reference.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let reference = Reference::parse(text).ok()?;
        // A name without a tag means every tag: the default one is not of the signer.
        let tag = reference.tag().filter(|_| !reference.is_tagged_by_default());
        Some(SignedName { name: reference.name().to_owned(), tag: tag.map(ToOwned::to_owned) })
    }
}

impl Identity {
    /// Checks that the names in it can be read.
    ///
    /// # Errors
    /// `InvalidConfig`.
    pub(super) fn check(&self) -> Result<(), Error> {
        let invalid = |what: &str, text: &str| {
            Err(Error::new(
                ErrorKind::InvalidConfig,
                format!("the signed identity's {what} {text:?} is invalid"),
            ))
        };
        match self {
            Identity::ExactReference(text) => match SignedName::parse(text) {
                Some(SignedName { tag: Some(_), .. }) => Ok(()),
                _ => invalid("reference (a tag is needed)", text),
            },
            Identity::ExactRepository(text) => match SignedName::parse(text) {
                Some(SignedName { tag: None, .. }) => Ok(()),
                _ => invalid("repository", text),
            },
            Identity::Remap { prefix, signed_prefix } => {
                for text in [prefix, signed_prefix] {
                    if !is_prefix(text) {
                        return invalid("prefix", text);
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Reports whether a signature that names `signed` counts for `image`.
    pub(super) fn accepts(&self, image: &Reference, signed: &SignedName) -> bool {
        match self {
            Identity::MatchRepository => signed.name == image.name(),
            Identity::MatchRepoDigestOrExact => matches_image(image.name(), image, signed),
            Identity::MatchExact => {
                image.digest().is_none()
                    && signed.name == image.name()
                    && signed.tag.as_deref() == image.tag()
            }
            Identity::ExactReference(text) => SignedName::parse(text).as_ref() == Some(signed),
            Identity::ExactRepository(text) => {
                SignedName::parse(text).is_some_and(|repository| repository.name == signed.name)
            }
            Identity::Remap { prefix, signed_prefix } => {
                let name = remapped(image.name(), prefix, signed_prefix);
                matches_image(name.as_deref().unwrap_or(image.name()), image, signed)
            }
        }
    }
}

/// Compares with the image under `name`: by digest its repository, else its repository and tag.
fn matches_image(name: &str, image: &Reference, signed: &SignedName) -> bool {
    signed.name == name && (image.digest().is_some() || signed.tag.as_deref() == image.tag())
}

fn remapped(name: &str, prefix: &str, signed_prefix: &str) -> Option<String> {
    let rest = name.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then(|| format!("{signed_prefix}{rest}"))
}

/// Reports whether the text is a host, or a host and a beginning of a repository's path.
fn is_prefix(text: &str) -> bool {
    let Some((host, path)) = text.split_once('/') else {
        return Reference::parse(&format!("{text}/x")).is_ok_and(|reference| reference.domain() == text);
    };
    Reference::parse(text).is_ok_and(|reference| {
        reference.domain() == host && reference.repository() == path && reference.is_tagged_by_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_accept_the_names_that_the_manual_says() {
        use Identity::*;
        let remap =
            |prefix: &str, signed: &str| Remap { prefix: prefix.into(), signed_prefix: signed.into() };
        let digest = format!("r.io/app@sha256:{}", "a".repeat(64));
        for (identity, image, signed, accepts) in [
            (MatchRepository, "r.io/app:1", "r.io/app", true),
            (MatchRepository, "r.io/app:1", "r.io/app:2", true),
            (MatchRepository, &*digest, "r.io/app:2", true),
            (MatchRepository, "r.io/app:1", "r.io/apple", false),
            (MatchRepository, "mirror.io/app:1", "r.io/app", false),
            (MatchRepository, "alpine", "docker.io/library/alpine:3", true),
            (MatchRepoDigestOrExact, "r.io/app:1", "r.io/app:1", true),
            (MatchRepoDigestOrExact, "r.io/app:1", "r.io/app", false),
            (MatchRepoDigestOrExact, "r.io/app:1", "r.io/app:2", false),
            (MatchRepoDigestOrExact, &digest, "r.io/app:2", true),
            (MatchRepoDigestOrExact, &digest, "r.io/app", true),
            (MatchRepoDigestOrExact, "r.io/app", "r.io/app:latest", true),
            (MatchExact, "r.io/app:1", "r.io/app:1", true),
            (MatchExact, "r.io/app:1", "r.io/app", false),
            (MatchExact, &digest, "r.io/app:1", false),
            (ExactReference("r.io/a:1".into()), "other.io/x:9", "r.io/a:1", true),
            (ExactReference("r.io/a:1".into()), "r.io/a:1", "r.io/a:2", false),
            (ExactRepository("r.io/a".into()), "other.io/x:9", "r.io/a:7", true),
            (ExactRepository("r.io/a".into()), "other.io/x:9", "r.io/b:7", false),
            (remap("mirror.io", "r.io"), "mirror.io/app:1", "r.io/app:1", true),
            (remap("mirror.io", "r.io"), "mirror.io/app:1", "mirror.io/app:1", false),
            (remap("mirror.io/team", "r.io"), "mirror.io/teammate/app:1", "r.iomate/app:1", false),
            (remap("mirror.io/team/app", "r.io/app"), "mirror.io/team/app:1", "r.io/app:1", true),
            (remap("mirror.io", "r.io"), "other.io/app:1", "other.io/app:1", true),
        ] {
            identity.check().unwrap();
            let (image, signed) = (Reference::parse(image).unwrap(), SignedName::parse(signed).unwrap());
            assert_eq!(identity.accepts(&image, &signed), accepts, "{identity:?} {image} {signed:?}");
        }
    }

    #[test]
    fn identities_that_cannot_match_are_refused() {
        for identity in [
            Identity::ExactReference("r.io/a".into()),
            Identity::ExactReference("Not A Name".into()),
            Identity::ExactRepository("r.io/a:1".into()),
            Identity::Remap { prefix: "mirror.io/".into(), signed_prefix: "r.io".into() },
            Identity::Remap { prefix: "mirror.io".into(), signed_prefix: String::new() },
            Identity::Remap { prefix: "mirror.io/a:1".into(), signed_prefix: "r.io".into() },
        ] {
            assert_eq!(identity.check().unwrap_err().kind(), ErrorKind::InvalidConfig, "{identity:?}");
        }
    }
}
