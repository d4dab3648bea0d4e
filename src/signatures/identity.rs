//! Which image a signature must name: the `signedIdentity` of
//! [containers-policy.json(5)](https://github.com/containers/image/blob/v5.36.0/docs/containers-policy.json.5.md).

use super::scope;
use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;
use crate::image::reference::Reference;

/// Which image a signature must name to count for the image that is pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Identity {
    /// The same repository, by any tag. The default of [`Signer`](super::Signer): cosign records no tag.
    MatchRepository,
    /// The same name, with the same tag and digest. For an image that is pulled by digest alone, the same repository
    /// with any tag or digest. The default of `policy.json`. A signature without tag and digest never matches.
    MatchRepoDigestOrExact,
    /// The same name, with the same tag and digest. A signature without tag and digest never matches.
    MatchExact,
    /// This name with a tag or a digest, regardless of the image that is pulled.
    ExactReference(String),
    /// This repository, regardless of the image that is pulled.
    ExactRepository(String),
    /// As `MatchRepoDigestOrExact`, after the prefix of the image's name is replaced: for mirrors.
    Remap {
        /// A host, or a host and the beginning of a path: `mirror.example.com/team`.
        prefix: String,
        /// The prefix that signatures have in its place.
        signed_prefix: String,
    },
}

/// The image that a signature names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SignedName {
    /// `HOST/REPOSITORY`, normalized.
    name: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl SignedName {
    /// Parses the name in a signature; `None` if it is no reference.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let reference = Reference::parse(text).ok()?;
        // The signer did not write the default tag.
        let tag = reference.tag().filter(|_| !reference.is_tagged_by_default());
        Some(SignedName {
            name: reference.name().to_owned(),
            tag: tag.map(ToOwned::to_owned),
            digest: reference.digest().cloned(),
        })
    }

    fn is_name_only(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }

    /// Returns whether it is the image under `name`, with the same tag and digest.
    fn is_exactly(&self, name: &str, image: &Reference) -> bool {
        self.name == name && self.tag.as_deref() == image.tag() && self.digest.as_ref() == image.digest()
    }

    /// Returns whether it is the image under `name`; for an image by digest alone, whether it is its repository.
    fn is_repo_digest_or_exactly(&self, name: &str, image: &Reference) -> bool {
        match image.tag() {
            None => self.name == name && !self.is_name_only(),
            Some(_) => self.is_exactly(name, image),
        }
    }
}

impl Identity {
    /// Checks that the names in it are valid.
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
                Some(name) if !name.is_name_only() => Ok(()),
                _ => invalid("reference (a tag or a digest is needed)", text),
            },
            Identity::ExactRepository(text) => match SignedName::parse(text) {
                Some(name) if name.is_name_only() => Ok(()),
                _ => invalid("repository", text),
            },
            Identity::Remap { prefix, signed_prefix } => {
                for text in [prefix, signed_prefix] {
                    if !scope::is_host_or_path(text) {
                        return invalid("prefix", text);
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Returns whether a signature that names `signed` counts for `image`.
    pub(super) fn accepts(&self, image: &Reference, signed: &SignedName) -> bool {
        match self {
            Identity::MatchRepository => signed.name == image.name(),
            Identity::MatchRepoDigestOrExact => signed.is_repo_digest_or_exactly(image.name(), image),
            Identity::MatchExact => signed.is_exactly(image.name(), image),
            Identity::ExactReference(text) => SignedName::parse(text).as_ref() == Some(signed),
            Identity::ExactRepository(text) => {
                SignedName::parse(text).is_some_and(|repository| repository.name == signed.name)
            }
            Identity::Remap { prefix, signed_prefix } => {
                let name = remapped(image.name(), prefix, signed_prefix);
                signed.is_repo_digest_or_exactly(name.as_deref().unwrap_or(image.name()), image)
            }
        }
    }
}

fn remapped(name: &str, prefix: &str, signed_prefix: &str) -> Option<String> {
    let rest = name.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then(|| format!("{signed_prefix}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_accept_the_names_that_the_manual_lists() {
        use Identity::*;
        let remap =
            |prefix: &str, signed: &str| Remap { prefix: prefix.into(), signed_prefix: signed.into() };
        let hex = "a".repeat(64);
        let digest = format!("r.io/app@sha256:{hex}");
        let other_digest = format!("r.io/app@sha256:{}", "b".repeat(64));
        let both = format!("r.io/app:1@sha256:{hex}");
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
            (MatchRepoDigestOrExact, &digest, &*other_digest, true),
            (MatchRepoDigestOrExact, &digest, "r.io/app", false),
            (MatchRepoDigestOrExact, &digest, "r.io/other:2", false),
            (MatchRepoDigestOrExact, "r.io/app:1", &*digest, false),
            (MatchRepoDigestOrExact, &both, "r.io/app:1", false),
            (MatchRepoDigestOrExact, &both, &*both, true),
            (MatchRepoDigestOrExact, "r.io/app", "r.io/app:latest", true),
            (MatchExact, "r.io/app:1", "r.io/app:1", true),
            (MatchExact, "r.io/app:1", "r.io/app", false),
            (MatchExact, &digest, "r.io/app:1", false),
            (MatchExact, &digest, "r.io/app", false),
            (MatchExact, &digest, &*digest, true),
            (MatchExact, &both, "r.io/app:1", false),
            (MatchExact, &both, &*both, true),
            (ExactReference("r.io/a:1".into()), "other.io/x:9", "r.io/a:1", true),
            (ExactReference("r.io/a:1".into()), "r.io/a:1", "r.io/a:2", false),
            (ExactReference("r.io/a:1".into()), "r.io/a:1", "r.io/a", false),
            (ExactReference(digest.clone()), "other.io/x:9", &*digest, true),
            (ExactReference(digest.clone()), "other.io/x:9", &*other_digest, false),
            (ExactRepository("r.io/a".into()), "other.io/x:9", "r.io/a:7", true),
            (ExactRepository("r.io/a".into()), "other.io/x:9", "r.io/b:7", false),
            (remap("mirror.io", "r.io"), "mirror.io/app:1", "r.io/app:1", true),
            (remap("mirror.io", "r.io"), "mirror.io/app:1", "mirror.io/app:1", false),
            (remap("mirror.io/team", "r.io"), "mirror.io/teammate/app:1", "r.iomate/app:1", false),
            (remap("mirror.io/team/app", "r.io/app"), "mirror.io/team/app:1", "r.io/app:1", true),
            (remap("mirror.io", "r.io"), "other.io/app:1", "other.io/app:1", true),
            (remap("mirror.io/hub", "docker.io/library"), "mirror.io/hub/alpine:3", "alpine:3", true),
            (remap("r.io", "s.io"), &digest, "s.io/app:7", true),
            (remap("r.io", "s.io"), &digest, "s.io/app", false),
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
