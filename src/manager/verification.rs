//! Selects the images that need a credential check before a request uses them.

use crate::error::{Error, ErrorKind};
use crate::image::reference::Reference;

/// When a request for an image that is there must prove that it could have pulled it: kubelet's
/// `imagePullCredentialsVerificationPolicy`, of
/// [KEP-2535](https://github.com/kubernetes/enhancements/tree/master/keps/sig-node/2535-ensure-secret-pulled-images).
///
/// It could have if a pull succeeded with its credentials, or without any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum VerificationPolicy {
    /// Never: every request may use the images that are there.
    NeverVerify,
    /// For images that this manager pulled, and not for those that were there before. The default where
    /// there are records.
    #[default]
    NeverVerifyPreloadedImages,
    /// For all images but those listed: names without tag and digest, or all below a path that ends in
    /// `/*`, like `registry.example.com/team/*`.
    NeverVerifyAllowlistedImages(Vec<String>),
    /// For all images.
    AlwaysVerify,
}

/// The policy, with its list parsed.
#[derive(Clone, Debug)]
pub(super) enum VerificationRule {
    Never,
    OfPulled,
    OfUnlisted(Vec<AllowPattern>),
    Always,
}

#[derive(Clone, Debug)]
pub(super) enum AllowPattern {
    Name(String),
    /// Ends with a slash.
    Below(String),
}

impl VerificationRule {
    /// # Errors
    /// `InvalidConfig`, which names the invalid entry of the list.
    pub(super) fn new(policy: &VerificationPolicy) -> Result<Self, Error> {
        Ok(match policy {
            VerificationPolicy::NeverVerify => VerificationRule::Never,
            VerificationPolicy::NeverVerifyPreloadedImages => VerificationRule::OfPulled,
            VerificationPolicy::NeverVerifyAllowlistedImages(list) => VerificationRule::OfUnlisted(
                list.iter().map(|text| AllowPattern::parse(text)).collect::<Result<_, _>>()?,
            ),
            VerificationPolicy::AlwaysVerify => VerificationRule::Always,
        })
    }

    /// Returns whether a request for the image needs proof; `was_pulled` is whether this
    /// manager pulled it, or began to.
    pub(super) fn is_needed(&self, image: &Reference, was_pulled: bool) -> bool {
        match self {
            VerificationRule::Never => false,
            VerificationRule::OfPulled => was_pulled,
            VerificationRule::OfUnlisted(list) => !list.iter().any(|pattern| pattern.matches(image.name())),
            VerificationRule::Always => true,
        }
    }
}

impl AllowPattern {
    fn parse(text: &str) -> Result<Self, Error> {
        let refused = |why: &str| {
            let field = "verification_policy";
            Error::new(
                ErrorKind::InvalidConfig,
                format!("{field}: {text:?} is no image name without tag: {why}"),
            )
        };
        // Any last part completes the name.
        let (name, is_prefix) = match text.strip_suffix("/*") {
            Some(prefix) => (format!("{prefix}/x"), true),
            None => (text.to_owned(), false),
        };
        if name.contains('*') {
            return Err(refused("a * stands only at the end, after a slash"));
        }
        let reference = Reference::parse(&name).map_err(|error| refused(error.message()))?;
        if !reference.is_tagged_by_default() || reference.digest().is_some() {
            return Err(refused("it has a tag or a digest"));
        }
        let name = reference.name();
        Ok(match name.strip_suffix('x') {
            Some(prefix) if is_prefix => AllowPattern::Below(prefix.to_owned()),
            _ => AllowPattern::Name(name.to_owned()),
        })
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            AllowPattern::Name(own) => own == name,
            AllowPattern::Below(prefix) => name.starts_with(prefix.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(list: &[&str]) -> Result<VerificationRule, Error> {
        let list = list.iter().map(|text| (*text).to_owned()).collect();
        VerificationRule::new(&VerificationPolicy::NeverVerifyAllowlistedImages(list))
    }

    #[test]
    fn each_policy_verifies_what_it_says() {
        use VerificationPolicy::*;
        // policy, of an image that was there before, of one that was pulled
        let table = [
            (NeverVerify, false, false),
            (NeverVerifyPreloadedImages, false, true),
            (NeverVerifyAllowlistedImages(vec!["r.io/team/*".to_owned()]), true, true),
            (NeverVerifyAllowlistedImages(vec!["r.io/app".to_owned()]), false, false),
            (AlwaysVerify, true, true),
        ];
        let image = Reference::parse("r.io/app:v1").unwrap();
        for (policy, preloaded, pulled) in table {
            let verification = VerificationRule::new(&policy).unwrap();
            assert_eq!(verification.is_needed(&image, false), preloaded, "{policy:?}");
            assert_eq!(verification.is_needed(&image, true), pulled, "{policy:?}");
        }
    }

    #[test]
    fn a_list_holds_names_and_whole_paths() {
        let table = [
            ("r.io/team/app", "r.io/team/app:v1", true),
            ("r.io/team/app", "r.io/team/app2", false),
            ("r.io/team/*", "r.io/team/app", true),
            ("r.io/team/*", "r.io/team/deep/app", true),
            ("r.io/team/*", "r.io/teams/app", false),
            ("r.io/*", "r.io/app", true),
            ("alpine", "docker.io/library/alpine:3", true),
            ("library/*", "alpine", true),
        ];
        for (pattern, image, is_listed) in table {
            let is_needed = listed(&[pattern]).unwrap().is_needed(&Reference::parse(image).unwrap(), true);
            assert_eq!(is_needed, !is_listed, "{pattern} and {image}");
        }
    }

    #[test]
    fn an_entry_that_is_no_name_is_refused_by_its_text() {
        let digest = format!("r.io/app@sha256:{}", "0".repeat(64));
        for bad in ["", "*", "/*", "r.io/*/app", "r.io/ap*", "r.io/app:v1", "R.io/App", &digest, "r.io/a b"] {
            let error = listed(&["r.io/good", bad]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{bad}");
            assert!(error.message().starts_with("verification_policy: "), "{error}");
        }
    }
}
