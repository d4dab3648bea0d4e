//! The two formats of Docker's credentials file, which pull secrets have too: `config.json`, and the older
//! `.dockercfg`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::credential::{Credential, Secret};

/// Maximum size of a credentials file, bytes.
pub(crate) const MAX_LEN: usize = 1024 * 1024;

/// Base64 with or without padding: files have both.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The content of a credentials file.
///
/// An entry that cannot be read is kept as the reason, for the entries of other registries stay usable. No
/// reason repeats any of the content.
#[derive(Debug, Default)]
pub(crate) struct DockerConfig {
    /// Credentials by registry, in the order to try.
    pub(crate) auths: Vec<(String, Result<Credential, String>)>,
    /// Names of credential helpers by registry.
    pub(crate) helpers: BTreeMap<String, Result<String, String>>,
    /// Name of the credential helper for all other registries.
    pub(crate) store: Option<String>,
}

impl DockerConfig {
    /// Reads a `config.json`: the credentials are under `auths`.
    ///
    /// # Errors
    /// The reason why the document as a whole cannot be read.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        let document: ConfigDocument<'_> = parse_json(json)?;
        let store = document.creds_store.filter(|name| !name.is_empty());
        let helpers = document.cred_helpers.unwrap_or_default().into_iter();
        Ok(DockerConfig {
            auths: credentials(document.auths.unwrap_or_default()),
            helpers: helpers.map(|(key, name)| (key, helper_name(name))).collect(),
            store,
        })
    }

    /// Reads a `.dockercfg`: the credentials are the document.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub(crate) fn parse_legacy(json: &[u8]) -> Result<Self, String> {
        Ok(DockerConfig { auths: credentials(parse_json(json)?), ..DockerConfig::default() })
    }
}

/// Reads a credentials file, for a fuzz target.
#[cfg(fuzzing)]
pub fn fuzz(json: &[u8]) {
    let _ = DockerConfig::parse(json);
    let _ = DockerConfig::parse_legacy(json);
}

#[derive(Deserialize)]
struct ConfigDocument<'a> {
    #[serde(borrow)]
    auths: Option<RawEntries<'a>>,
    #[serde(borrow, rename = "credHelpers")]
    cred_helpers: Option<RawEntries<'a>>,
    #[serde(rename = "credsStore")]
    creds_store: Option<String>,
}

/// RawEntries that are not read yet. They borrow from the file's text, so that no copy of a secret is left.
type RawEntries<'a> = BTreeMap<String, &'a RawValue>;

#[derive(Default, Deserialize)]
#[serde(default)]
struct AuthEntry {
    username: Secret,
    password: Secret,
    /// Base64 of `username:password`.
    auth: Secret,
    #[serde(rename = "identitytoken")]
    identity_token: Secret,
    #[serde(rename = "registrytoken")]
    registry_token: Secret,
}

impl AuthEntry {
    /// Returns the entry's credentials, the best first: a token, and the password for a host that takes no
    /// token. Docker leaves an empty entry behind for a credential that a helper keeps.
    fn into_credentials(self) -> Result<Vec<Credential>, String> {
        let token = if !self.registry_token.is_empty() {
            Some(Credential::registry_token(self.registry_token.expose()))
        } else if !self.identity_token.is_empty() {
            Some(Credential::identity_token(self.identity_token.expose()))
        } else {
            None
        };
        match (token, self.password()) {
            (Some(token), Err(_)) => Ok(vec![token]),
            (token, password) => Ok(token.into_iter().chain(password?).collect()),
        }
    }

    /// Returns the user and the password: `auth` outranks the two fields.
    fn password(&self) -> Result<Option<Credential>, String> {
        if !self.auth.is_empty() {
            let decoded = decode_auth(self.auth.expose());
            return decoded
                .map(Some)
                .ok_or_else(|| "an `auth` is not the base64 of user:password".to_owned());
        }
        let is_empty = self.username.is_empty() && self.password.is_empty();
        Ok((!is_empty).then(|| Credential::basic(self.username.expose(), self.password.expose())))
    }
}

fn credentials(entries: RawEntries<'_>) -> Vec<(String, Result<Credential, String>)> {
    let mut credentials = Vec::new();
    for (key, entry) in entries {
        match read_entry(entry) {
            Ok(found) => {
                credentials.extend(found.into_iter().map(|credential| (key.clone(), Ok(credential))))
            }
            Err(why) => credentials.push((key, Err(why))),
        }
    }
    credentials
}

/// Reads an entry of `auths`, which may be `null`.
fn read_entry(entry: &RawValue) -> Result<Vec<Credential>, String> {
    // serde would read a list as the fields in their order.
    let is_list = entry.get().starts_with('[');
    let entry = serde_json::from_str::<Option<AuthEntry>>(entry.get()).ok().filter(|_| !is_list);
    let entry = entry.ok_or_else(|| "its entry is not an object of strings".to_owned())?;
    entry.unwrap_or_default().into_credentials()
}

/// Reads an entry of `credHelpers`; `null` is the empty name, as in Go.
fn helper_name(name: &RawValue) -> Result<String, String> {
    let name: Result<Option<String>, _> = serde_json::from_str(name.get());
    let name = name.map_err(|_| "its entry in `credHelpers` is not a string".to_owned())?;
    Ok(name.unwrap_or_default())
}

/// Decodes base64, which may have line breaks anywhere, and splits it at the first colon.
fn decode_auth(auth: &str) -> Option<Credential> {
    let packed: Zeroizing<String> = Zeroizing::new(auth.split_ascii_whitespace().collect());
    let decoded = Zeroizing::new(BASE64.decode(packed.as_bytes()).ok()?);
    let (username, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    // Docker's own files have had zeros at the end of the password.
    Some(Credential::basic(username, password.trim_end_matches('\0')))
}

/// Parses a document. serde's own messages quote the value, which may be a password, and are left out.
fn parse_json<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, String> {
    if json.len() > MAX_LEN {
        return Err(format!("more than {MAX_LEN} bytes"));
    }
    serde_json::from_slice(json).map_err(|e| {
        let reason = if e.is_data() { "not a credentials file" } else { "not JSON" };
        format!("{reason}, at line {} column {}", e.line(), e.column())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(json: &str) -> Result<Vec<Credential>, String> {
        let config = DockerConfig::parse(format!(r#"{{"auths": {{"r.io": {json}}}}}"#).as_bytes())?;
        config.auths.into_iter().map(|(_, credential)| credential).collect()
    }

    #[test]
    fn an_entry_is_read_as_kubelet_and_docker_read_it() {
        let basic = Credential::basic;
        let cases = [
            (r#"{"username": "u", "password": "p"}"#, vec![basic("u", "p")]),
            (r#"{"username": "u", "password": "p", "auth": "Zm9vOmJhcg=="}"#, vec![basic("foo", "bar")]),
            (r#"{"auth": "Zm9vOmJhcg"}"#, vec![basic("foo", "bar")]),
            (r#"{"auth": "Zm9vOm\nJhcg==\n"}"#, vec![basic("foo", "bar")]),
            (r#"{"auth": "Zm9v\r\nOmJhcg"}"#, vec![basic("foo", "bar")]),
            (r#"{"auth": "Zm9vOmI6Yw=="}"#, vec![basic("foo", "b:c")]),
            (r#"{"auth": "Zm9vOg=="}"#, vec![basic("foo", "")]),
            (
                r#"{"auth": "Zm9vOmJhcg==", "identitytoken": "t"}"#,
                vec![Credential::identity_token("t"), basic("foo", "bar")],
            ),
            (
                r#"{"username": "u", "password": "p", "registrytoken": "t"}"#,
                vec![Credential::registry_token("t"), basic("u", "p")],
            ),
            (r#"{"auth": "!", "identitytoken": "t"}"#, vec![Credential::identity_token("t")]),
            (r#"{"registrytoken": "t", "identitytoken": "i"}"#, vec![Credential::registry_token("t")]),
            (r#"{"auth": null, "username": "u", "email": "e@x", "other": [1]}"#, vec![basic("u", "")]),
            ("{}", vec![]),
            ("null", vec![]),
        ];
        for (json, expected) in cases {
            assert_eq!(entry(json).unwrap(), expected, "{json}");
        }
    }

    #[test]
    fn a_broken_entry_is_told_without_its_content_and_hides_no_other() {
        let not_base64 = "an `auth` is not the base64 of user:password";
        let not_an_entry = "its entry is not an object of strings";
        let cases = [
            (r#"{"auth": "marker"}"#, not_base64),
            (r#"{"auth": "!marker!"}"#, not_base64),
            (r#"{"auth": "bWFya2Vy"}"#, not_base64),
            (r#""marker""#, not_an_entry),
            (r#"{"auth": ["marker"]}"#, not_an_entry),
            (r#"{"auth": 5, "username": "marker"}"#, not_an_entry),
            (r#"{"auth": "marker", "auth": "marker"}"#, not_an_entry),
            (r#"["marker"]"#, not_an_entry),
            ("17", not_an_entry),
        ];
        for (json, expected) in cases {
            assert_eq!(entry(json).unwrap_err(), expected, "{json}");
            let auths =
                format!(r#"{{"a.io": {{"username": "a"}}, "r.io": {json}, "z.io": {{"username": "z"}}}}"#);
            let config = DockerConfig::parse(format!(r#"{{"auths": {auths}}}"#).as_bytes()).unwrap();
            for config in [config, DockerConfig::parse_legacy(auths.as_bytes()).unwrap()] {
                let usable: Vec<_> =
                    config.auths.iter().filter(|(_, found)| found.is_ok()).map(|(key, _)| &**key).collect();
                assert_eq!(usable, ["a.io", "z.io"], "{json}");
            }
        }
    }

    #[test]
    fn a_document_that_cannot_be_read_is_told_without_its_content() {
        for (json, expected) in [
            (r#"{"auths": "marker"}"#, "not a credentials file, at line 1 column 18"),
            (r#"{"auths": {"r.io": {"auth": marker}}}"#, "not JSON, at line 1 column 29"),
        ] {
            assert_eq!(DockerConfig::parse(json.as_bytes()).unwrap_err(), expected, "{json}");
        }
    }

    #[test]
    fn helpers_and_the_store_are_read_from_config_json() {
        let config = DockerConfig::parse(
            br#"{"auths": {}, "credHelpers": {"r.io": "ecr-login", "null.io": null, "bad.io": ["marker"]},
                "credsStore": "pass", "detachKeys": "x"}"#,
        )
        .unwrap();
        assert_eq!(config.helpers["r.io"].as_deref(), Ok("ecr-login"));
        assert_eq!(config.helpers["null.io"].as_deref(), Ok(""));
        assert_eq!(
            config.helpers["bad.io"].as_deref(),
            Err(&"its entry in `credHelpers` is not a string".to_owned())
        );
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
