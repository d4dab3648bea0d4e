//! Hashes that tell credentials apart without keeping them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::image::digest::Digest;
use crate::service::PullSecret;

/// The hash of a set of pull secrets: equal for equal contents, in any order.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct SecretsHash(String);

impl SecretsHash {
    pub(super) fn of(secrets: &[PullSecret]) -> Self {
        let mut hashes: Vec<String> = secrets.iter().map(content_hash).collect();
        hashes.sort_unstable();
        hashes.dedup();
        SecretsHash(hash(hashes.concat().as_bytes()))
    }
}

impl fmt::Debug for SecretsHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A pull secret as the records keep it: its name in the API server, and the hash of its contents.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SecretMark {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) credential_hash: String,
}

impl SecretMark {
    pub(super) fn of(secret: &PullSecret) -> Self {
        SecretMark {
            namespace: secret.namespace.clone(),
            name: secret.name.clone(),
            uid: secret.uid.clone(),
            credential_hash: content_hash(secret),
        }
    }

    /// Returns whether both are one credential: the same contents, or the same object of the API server,
    /// whose contents may have been renewed.
    pub(super) fn is_same_as(&self, other: &SecretMark) -> bool {
        let coordinates = |mark: &SecretMark| (mark.namespace.clone(), mark.name.clone(), mark.uid.clone());
        self.credential_hash == other.credential_hash
            || (!self.uid.is_empty() && coordinates(self) == coordinates(other))
    }
}

/// Hashes a secret's parts, each after its length, so that no two secrets hash the same text.
fn content_hash(secret: &PullSecret) -> String {
    let entries = secret.data.iter().flat_map(|(key, data)| [key.as_bytes(), data.as_bytes()]);
    let mut text = zeroize::Zeroizing::new(Vec::new());
    for part in std::iter::once(secret.kind.as_bytes()).chain(entries) {
        text.extend_from_slice(&(part.len() as u64).to_le_bytes());
        text.extend_from_slice(part);
    }
    hash(&text)
}

pub(super) fn hash(bytes: &[u8]) -> String {
    Digest::sha256(bytes).hex().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_secrets_does_not_count_and_their_contents_do() {
        let a = PullSecret::docker_config_json("a");
        let b = PullSecret::docker_config_json("b");
        let older = PullSecret::docker_cfg("a");
        let of = |secrets: &[&PullSecret]| {
            SecretsHash::of(&secrets.iter().map(|secret| (*secret).clone()).collect::<Vec<_>>())
        };
        assert_eq!(of(&[&a, &b]), of(&[&b, &a, &a]));
        let different = [of(&[]), of(&[&a]), of(&[&b]), of(&[&older]), of(&[&a, &b])];
        for (at, one) in different.iter().enumerate() {
            assert!(different[at + 1..].iter().all(|other| other != one));
        }
        assert!(!format!("{:?} {:?}", of(&[&a]), SecretMark::of(&a)).contains("\"a\""));
    }

    #[test]
    fn a_renewed_secret_is_the_same_only_if_the_api_server_says_which_it_is() {
        let secret = |uid: &str, data: &str| {
            let mut secret = PullSecret::docker_config_json(data);
            secret.namespace = "default".to_owned();
            secret.name = "regcred".to_owned();
            secret.uid = uid.to_owned();
            SecretMark::of(&secret)
        };
        assert!(secret("u1", "old").is_same_as(&secret("u1", "new")));
        assert!(secret("u1", "old").is_same_as(&secret("u2", "old")));
        assert!(!secret("u1", "old").is_same_as(&secret("u2", "new")));
        assert!(!secret("", "old").is_same_as(&secret("", "new")));
    }
}
