//! Builds a keyring from pull secrets in the form of Kubernetes.

use crate::error::{Error, ErrorKind};
use crate::service::PullSecret;

use super::docker_config::DockerConfig;
use super::keyring::Keyring;

impl Keyring {
    /// Returns the credentials in `secrets`, of the types `kubernetes.io/dockerconfigjson` and
    /// `kubernetes.io/dockercfg`; secrets of other types are ignored, as kubelet does.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for a secret that does not parse; the message names it and holds
    /// nothing of it.
    pub fn from_secrets(secrets: &[PullSecret]) -> Result<Self, Error> {
        keyring(secrets)
    }
}

/// Returns all credentials of `secrets`, in their order.
///
/// A secret whose type does not match its key is ignored, as kubelet does.
///
/// # Errors
/// `InvalidConfig` with the name of a secret that does not parse, and none of its content.
pub(crate) fn keyring(secrets: &[PullSecret]) -> Result<Keyring, Error> {
    let mut keyring = Keyring::default();
    for (position, secret) in secrets.iter().enumerate() {
        let Some(config) = parse(secret) else {
            log::debug!("{} holds no registry credentials", name(secret, position));
            continue;
        };
        let config = config.map_err(|why| {
            Error::new(ErrorKind::InvalidConfig, format!("{}: {why}", name(secret, position)))
        })?;
        for (key, credential) in config.auths {
            let content = credential.map_err(|why| format!("{}: {why}", name(secret, position)));
            keyring.add_entry(&key, content);
        }
    }
    Ok(keyring)
}

fn parse(secret: &PullSecret) -> Option<Result<DockerConfig, String>> {
    let data = |key| secret.data.get(key).map(|data| data.as_bytes()).filter(|data| !data.is_empty());
    match secret.kind.as_str() {
        "kubernetes.io/dockerconfigjson" => data(".dockerconfigjson").map(DockerConfig::parse),
        "kubernetes.io/dockercfg" => data(".dockercfg").map(DockerConfig::parse_legacy),
        _ => None,
    }
}

/// Returns a secret's name in the API server, or else its position in the request.
fn name(secret: &PullSecret, position: usize) -> String {
    match (secret.namespace.as_str(), secret.name.as_str()) {
        (_, "") => format!("pull secret number {}", position + 1),
        ("", name) => format!("pull secret {name}"),
        (namespace, name) => format!("pull secret {namespace}/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::credential::Credential;
    use crate::credentials::query::CredentialQuery;

    fn users(secrets: &[PullSecret]) -> Vec<Credential> {
        keyring(secrets).unwrap().lookup_query(&CredentialQuery::new("r.io", "team/app"))
    }

    #[test]
    fn both_types_are_read_and_a_longer_key_outranks_the_secrets_order() {
        let secrets = [
            PullSecret::docker_cfg(r#"{"r.io": {"username": "first", "password": "p"}}"#),
            PullSecret::docker_config_json(
                r#"{"auths": {"r.io": {"username": "second"}, "r.io/team": {"username": "closest"}}}"#,
            ),
        ];
        assert_eq!(
            users(&secrets),
            [
                Credential::basic("closest", ""),
                Credential::basic("first", "p"),
                Credential::basic("second", "")
            ]
        );
    }

    #[test]
    fn a_type_that_does_not_fit_its_key_is_ignored() {
        let json = r#"{"auths": {"r.io": {"username": "u"}}}"#;
        let mut opaque = PullSecret::docker_config_json(json);
        opaque.kind = "Opaque".to_owned();
        let mut crossed = PullSecret::docker_config_json(json);
        crossed.kind = "kubernetes.io/dockercfg".to_owned();
        assert_eq!(users(&[opaque, crossed, PullSecret::docker_config_json("")]), []);
    }

    #[test]
    fn one_that_does_not_parse_is_named_and_nothing_of_it_told() {
        let good = PullSecret::docker_config_json("{}");
        let mut bad = PullSecret::docker_cfg("[\"marker\"]");
        let error = keyring(&[good.clone(), bad.clone()]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert_eq!(error.message(), "pull secret number 2: not a credentials file, at line 1 column 0");

        bad.namespace = "default".to_owned();
        bad.name = "regcred".to_owned();
        let error = keyring(&[good, bad]).unwrap_err();
        assert!(error.message().starts_with("pull secret default/regcred: "), "{error}");
        assert!(!format!("{error} {error:?}").contains("marker"));
    }
}
