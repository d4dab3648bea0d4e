//! The record of a pull that succeeded.

use serde::{Deserialize, Serialize};

use super::super::credential_hash::{SecretMark, hash};

/// A pull that succeeded, and its credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Grant {
    pub(super) image_ref: String,
    /// Without tag and digest: credentials for a repository are good for all of it.
    pub(super) repository: String,
    /// Whether the pull needed no pull secrets.
    pub(super) everyone: bool,
    /// The pull secrets of the pull. Which of them worked is not known, so a request needs all of them.
    pub(super) secrets: Vec<SecretMark>,
}

impl Grant {
    /// Returns the hash of its credentials. A renewed secret has that of the secret it replaces.
    pub(super) fn who(&self) -> String {
        let secret = |mark: &SecretMark| match mark.uid.as_str() {
            "" => mark.credential_hash.clone(),
            uid => format!("{}/{}/{uid}", mark.namespace, mark.name),
        };
        let mut who: Vec<String> = self.secrets.iter().map(secret).collect();
        who.sort_unstable();
        hash(format!("{}\n{}\n{}", self.repository, self.everyone, who.join("\n")).as_bytes())
    }

    pub(super) fn holds_for(&self, repository: &str, secrets: &[SecretMark]) -> bool {
        let has = |wanted: &SecretMark| secrets.iter().any(|own| own.is_same_as(wanted));
        let may = self.everyone || (!self.secrets.is_empty() && self.secrets.iter().all(has));
        self.repository == repository && may
    }
}
