//! Reads [containers-policy.json(5)](https://github.com/containers/image/blob/v5.36.0/docs/containers-policy.json.5.md),
//! strictly.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::identity::Identity;
use super::key::MAX_PEM;
use super::requirement::Requirement;
use super::signer::{SignatureFormat, Signer};
use super::strict_json::UniqueMap;
use crate::credentials::config_file;
use crate::error::{Error, ErrorKind};

/// Bytes of a policy.
const MAX_POLICY: u64 = 1 << 20;

/// The rules by scope; the empty one is the default.
pub(super) type ByScope = BTreeMap<String, Vec<Requirement>>;

/// Reads a policy file.
pub(super) fn read(path: &Path) -> Result<ByScope, Error> {
    parse(&read_file(path, MAX_POLICY)?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    default: Vec<Box<RawValue>>,
    #[serde(default)]
    transports: UniqueMap<UniqueMap<Vec<Box<RawValue>>>>,
}

/// The fields of each requirement.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fields {
    #[serde(rename = "type")]
    kind: String,
    key_path: Option<PathBuf>,
    key_paths: Option<Vec<PathBuf>>,
    key_data: Option<String>,
    key_datas: Option<Vec<String>>,
    key_type: Option<Box<RawValue>>,
    signed_identity: Option<IdentityFields>,
    fulcio: Option<Box<RawValue>>,
    pki: Option<Box<RawValue>>,
    rekor_public_key_path: Option<Box<RawValue>>,
    rekor_public_key_paths: Option<Box<RawValue>>,
    rekor_public_key_data: Option<Box<RawValue>>,
    rekor_public_key_datas: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct IdentityFields {
    #[serde(rename = "type")]
    kind: String,
    docker_reference: Option<String>,
    docker_repository: Option<String>,
    prefix: Option<String>,
    signed_prefix: Option<String>,
}

/// Parses a policy.
pub(super) fn parse(text: &[u8]) -> Result<ByScope, Error> {
    let policy: Policy =
        serde_json::from_slice(text).map_err(|error| invalid(format!("not a policy: {error}")))?;
    let mut by_scope = ByScope::new();
    by_scope.insert(String::new(), requirements("default", &policy.default)?);
    for (transport, scopes) in &policy.transports.0 {
        // The rules of other transports hold for images that do not come from a registry.
        if transport != "docker" {
            continue;
        }
        for (scope, list) in &scopes.0 {
            let name = if scope.is_empty() { "docker" } else { scope };
            by_scope.insert(scope.clone(), requirements(name, list)?);
        }
    }
    Ok(by_scope)
}

fn requirements(scope: &str, list: &[Box<RawValue>]) -> Result<Vec<Requirement>, Error> {
    if list.is_empty() {
        return Err(invalid(format!("{scope}: a list of requirements is empty")));
    }
    let one =
        |raw: &RawValue| requirement(raw).map_err(|error| invalid(format!("{scope}: {}", error.message())));
    list.iter().map(|raw| one(raw)).collect()
}

fn requirement(raw: &RawValue) -> Result<Requirement, Error> {
    /// The type alone, to name one that is not supported instead of its fields.
    #[derive(Deserialize)]
    struct Kind {
        #[serde(rename = "type")]
        kind: String,
    }
    let broken = |error: serde_json::Error| invalid(error.to_string());
    let Kind { kind } = serde_json::from_str(raw.get()).map_err(broken)?;
    if !matches!(kind.as_str(), "insecureAcceptAnything" | "reject" | "sigstoreSigned") {
        return Err(invalid(format!("the requirement {kind:?} cannot be enforced")));
    }
    let fields: Fields = serde_json::from_str(raw.get()).map_err(broken)?;
    let present = fields.present();
    match fields.kind.as_str() {
        "sigstoreSigned" => fields.signed_by().map(Requirement::SignedBy),
        _ if !present.is_empty() => {
            Err(invalid(format!("{}: it takes no {}", fields.kind, present.join(", "))))
        }
        "reject" => Ok(Requirement::Reject),
        _ => Ok(Requirement::AcceptUnsigned),
    }
}

impl Fields {
    /// Returns the names of the fields that are there, without the type.
    fn present(&self) -> Vec<&'static str> {
        let fields = [
            ("keyPath", self.key_path.is_some()),
            ("keyPaths", self.key_paths.is_some()),
            ("keyData", self.key_data.is_some()),
            ("keyDatas", self.key_datas.is_some()),
            ("keyType", self.key_type.is_some()),
            ("signedIdentity", self.signed_identity.is_some()),
            ("fulcio", self.fulcio.is_some()),
            ("pki", self.pki.is_some()),
            ("rekorPublicKeyPath", self.rekor_public_key_path.is_some()),
            ("rekorPublicKeyPaths", self.rekor_public_key_paths.is_some()),
            ("rekorPublicKeyData", self.rekor_public_key_data.is_some()),
            ("rekorPublicKeyDatas", self.rekor_public_key_datas.is_some()),
        ];
        fields.into_iter().filter(|(_, is_present)| *is_present).map(|(name, _)| name).collect()
    }

    fn signed_by(&self) -> Result<Signer, Error> {
        const KEYS: [&str; 4] = ["keyPath", "keyPaths", "keyData", "keyDatas"];
        let present = self.present();
        if let Some(field) = present.iter().find(|field| !KEYS.contains(field) && **field != "signedIdentity")
        {
            return Err(invalid(format!("sigstoreSigned: {field} cannot be enforced")));
        }
        if present.iter().filter(|field| KEYS.contains(field)).count() != 1 {
            return Err(invalid(
                "sigstoreSigned: exactly one of keyPath, keyPaths, keyData, keyDatas is needed",
            ));
        }
        let paths = self.key_path.iter().chain(self.key_paths.iter().flatten());
        let from_files = paths.map(|path| {
            let text = read_file(path, MAX_PEM as u64)
                .map_err(|error| invalid(format!("{}: {}", path.display(), error.message())))?;
            Ok((path.display().to_string(), text))
        });
        let datas = self.key_data.iter().chain(self.key_datas.iter().flatten());
        let from_text = datas.map(|data| {
            let decoded = STANDARD.decode(data).map_err(|_| invalid("keyData: not base64"))?;
            Ok(("keyData".to_owned(), decoded))
        });
        let mut pems = Vec::new();
        for key in from_files.chain(from_text) {
            let (name, text) = key?;
            // Each is checked alone, so that the message names it.
            Signer::key(&text).map_err(|error| invalid(format!("{name}: {}", error.message())))?;
            pems.push(text);
        }
        let identity = match &self.signed_identity {
            Some(fields) => fields.identity()?,
            None => Identity::MatchRepoDigestOrExact,
        };
        let signer = Signer::any_of(pems)?.formats([SignatureFormat::SimpleSigning]).identity(identity);
        signer.check()?;
        Ok(signer)
    }
}

impl IdentityFields {
    fn identity(&self) -> Result<Identity, Error> {
        let IdentityFields { kind, docker_reference, docker_repository, prefix, signed_prefix } = self;
        Ok(match (kind.as_str(), docker_reference, docker_repository, prefix, signed_prefix) {
            ("matchExact", None, None, None, None) => Identity::MatchExact,
            ("matchRepoDigestOrExact", None, None, None, None) => Identity::MatchRepoDigestOrExact,
            ("matchRepository", None, None, None, None) => Identity::MatchRepository,
            ("exactReference", Some(text), None, None, None) => Identity::ExactReference(text.clone()),
            ("exactRepository", None, Some(text), None, None) => Identity::ExactRepository(text.clone()),
            ("remapIdentity", None, None, Some(prefix), Some(signed_prefix)) => {
                Identity::Remap { prefix: prefix.clone(), signed_prefix: signed_prefix.clone() }
            }
            _ => return Err(invalid(format!("signedIdentity: the type {kind:?} or its fields are unknown"))),
        })
    }
}

/// Reads a regular file: a FIFO would keep its reader waiting.
fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    config_file::read(path, limit).map_err(|error| invalid(error.to_string()))
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidConfig, text)
}
