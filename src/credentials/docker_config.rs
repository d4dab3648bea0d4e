//! The two shapes of Docker's credentials file, which pull secrets have too: `config.json`, and the
//! older `.dockercfg`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::credential::{Credential, Secret};

/// No credentials file is longer, bytes.
pub(crate) const MAX_LEN: usize = 1024 * 1024;

/// Padded or not: both are found in the field.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a credentials file says.
#[derive(Debug, Default)]
pub(crate) struct DockerConfig {
    /// Credentials by registry.
    pub(crate) auths: Vec<(String, Credential)>,
    /// Names of credential helpers by registry.
    pub(crate) helpers: BTreeMap<String, String>,
    /// Name of the credential helper for all other registries.
    pub(crate) store: Option<String>,
}

impl DockerConfig {
    /// Reads a `config.json`: the credentials are under `auths`.
    ///
    /// # Errors
    /// What is wrong, in words that hold nothing of the content.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        let document: Document = parse_json(json)?;
        let store = document.creds_store.filter(|name| !name.is_empty());
        Ok(DockerConfig {
            auths: credentials(document.auths.unwrap_or_default())?,
            helpers: document.cred_helpers.unwrap_or_default(),
            store,
        })
    }

    /// Reads a `.dockercfg`: the credentials are the document.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub(crate) fn parse_legacy(json: &[u8]) -> Result<Self, String> {
        Ok(DockerConfig { auths: credentials(parse_json(json)?)?, ..DockerConfig::default() })
    }
}

#[derive(Deserialize)]
struct Document {
    auths: Option<Entries>,
    #[serde(rename = "credHelpers")]
    cred_helpers: Option<BTreeMap<String, String>>,
    #[serde(rename = "credsStore")]
    creds_store: Option<String>,
}

type Entries = BTreeMap<String, Option<Entry>>;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: Secret,
    password: Secret,
    /// Base64 of `username:password`.
    auth: Secret,
    #[serde(rename = "identitytoken")]
    identity_token: Secret,
    #[serde(rename = "registrytoken")]
    registry_token: Secret,
}

impl Entry {
    /// Tokens outrank `auth`, and `auth` outranks the two fields. An entry with nothing in it is what
    /// Docker leaves behind for a credential that a helper keeps.
    fn into_credential(self) -> Result<Option<Credential>, String> {
        if !self.registry_token.is_empty() {
            return Ok(Some(Credential::registry_token(self.registry_token.expose())));
        }
        if !self.identity_token.is_empty() {
            return Ok(Some(Credential::identity_token(self.identity_token.expose())));
        }
        if !self.auth.is_empty() {
            return decode_auth(self.auth.expose())
                .map(Some)
                .ok_or_else(|| "an `auth` is not the base64 of user:password".to_owned());
        }
        let empty = self.username.is_empty() && self.password.is_empty();
        Ok((!empty).then(|| Credential::basic(self.username.expose(), self.password.expose())))
    }
}

fn credentials(entries: Entries) -> Result<Vec<(String, Credential)>, String> {
    let filled = entries.into_iter().filter_map(|(key, entry)| {
        entry.unwrap_or_default().into_credential().map(|credential| Some((key, credential?))).transpose()
    });
    filled.collect()
}

/// Base64 with line breaks anywhere, split at the first colon.
fn decode_auth(auth: &str) -> Option<Credential> {
    let packed: Zeroizing<String> = Zeroizing::new(auth.split_ascii_whitespace().collect());
    let decoded = Zeroizing::new(BASE64.decode(packed.as_bytes()).ok()?);
    let (username, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    // Docker's own files have had zeros at the end of the password.
    Some(Credential::basic(username, password.trim_end_matches('\0')))
}

/// serde's own messages quote what they find, and that may be the password.
fn parse_json<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    if json.len() > MAX_LEN {
        return Err(format!("more than {MAX_LEN} bytes"));
    }
    serde_json::from_slice(json).map_err(|e| {
        let what = if e.is_data() { "not a credentials file" } else { "not JSON" };
        format!("{what}, at line {} column {}", e.line(), e.column())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(json: &str) -> Result<Vec<(String, Credential)>, String> {
        DockerConfig::parse(format!(r#"{{"auths": {{"r.io": {json}}}}}"#).as_bytes()).map(|c| c.auths)
    }

    #[test]
    fn an_entry_is_read_as_kubelet_and_docker_read_it() {
        let basic = |user, password| Some(Credential::basic(user, password));
        let cases = [
            (r#"{"username": "u", "password": "p"}"#, basic("u", "p")),
            (r#"{"username": "u", "password": "p", "auth": "Zm9vOmJhcg=="}"#, basic("foo", "bar")),
            (r#"{"auth": "Zm9vOmJhcg"}"#, basic("foo", "bar")),
            (r#"{"auth": "Zm9vOm\nJhcg==\n"}"#, basic("foo", "bar")),
            (r#"{"auth": "Zm9v\r\nOmJhcg"}"#, basic("foo", "bar")),
            (r#"{"auth": "Zm9vOmI6Yw=="}"#, basic("foo", "b:c")),
            (r#"{"auth": "Zm9vOg=="}"#, basic("foo", "")),
            (r#"{"auth": "Zm9vOg==", "identitytoken": "t"}"#, Some(Credential::identity_token("t"))),
            (r#"{"registrytoken": "t", "identitytoken": "i"}"#, Some(Credential::registry_token("t"))),
            (r#"{"auth": null, "username": "u", "email": "e@x", "other": [1]}"#, basic("u", "")),
            ("{}", None),
            ("null", None),
        ];
        for (json, expected) in cases {
            let found = entry(json).unwrap().pop().map(|(_, credential)| credential);
            assert_eq!(found, expected, "{json}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_without_a_word_of_the_content() {
        let cases = [
            (r#"{"auth": "marker"}"#, "an `auth` is not the base64 of user:password"),
            (r#"{"auth": "!marker!"}"#, "an `auth` is not the base64 of user:password"),
            (r#"{"auth": "bWFya2Vy"}"#, "an `auth` is not the base64 of user:password"),
            (r#""marker""#, "not a credentials file, at line 1 column 27"),
            (r#"{"auth": ["marker"]}"#, "not a credentials file, at line 1 column 28"),
            (r#"{"auth": marker}"#, "not JSON, at line 1 column 29"),
        ];
        for (json, expected) in cases {
            assert_eq!(entry(json).unwrap_err(), expected, "{json}");
        }
    }

    #[test]
    fn helpers_and_the_store_are_read_from_config_json() {
        let config = DockerConfig::parse(
            br#"{"auths": {}, "credHelpers": {"r.io": "ecr-login"}, "credsStore": "pass", "detachKeys": "x"}"#,
        )
        .unwrap();
        assert_eq!(config.helpers.get("r.io").map(String::as_str), Some("ecr-login"));
        assert_eq!(config.store.as_deref(), Some("pass"));
    }

    proptest! {
        #[test]
        fn no_document_panics(json in any::<Vec<u8>>()) {
            let _ = DockerConfig::parse(&json);
            let _ = DockerConfig::parse_legacy(&json);
        }

        #[test]
        fn no_entry_panics(json in r#"\{("auth"|"username"): ?("[ -~]{0,20}"|null|[0-9]{1,3})\}"#) {
            let _ = entry(&json);
        }
    }
}
