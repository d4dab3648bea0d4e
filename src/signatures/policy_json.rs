//! Reads [containers-policy.json(5)](https://github.com/containers/image/blob/v5.36.0/docs/containers-policy.json.5.md),
//! strictly.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::identity::Identity;
use super::key::MAX_PEM;
use super::requirement::Requirement;
use super::scope;
use super::signer::{SignatureFormat, Signer};
use super::strict_json::{self, StrictObject, UniqueMap};
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
struct PolicyFile {
    default: Vec<Box<RawValue>>,
    #[serde(default)]
    transports: UniqueMap<UniqueMap<Vec<Box<RawValue>>>>,
}

/// The fields of every type of requirement. A field that is `null` is present.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RequirementFields {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "not_null")]
    key_path: Option<PathBuf>,
    #[serde(default, deserialize_with = "not_null")]
    key_paths: Option<Vec<PathBuf>>,
    #[serde(default, deserialize_with = "not_null")]
    key_data: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    key_datas: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    signed_identity: Option<StrictObject<IdentityFields>>,
    #[serde(default, deserialize_with = "not_null")]
    key_type: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "not_null")]
    base_layer_identity: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "not_null")]
    fulcio: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "not_null")]
    pki: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "not_null")]
    rekor_public_key_path: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "not_null")]
    rekor_public_key_paths: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "not_null")]
    rekor_public_key_data: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "not_null")]
    rekor_public_key_datas: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct IdentityFields {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "not_null")]
    docker_reference: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    docker_repository: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    prefix: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    signed_prefix: Option<String>,
}

fn not_null<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Parses a policy.
pub(super) fn parse(text: &[u8]) -> Result<ByScope, Error> {
    let file: PolicyFile =
        strict_json::from_slice(text).map_err(|error| invalid(format!("not a policy: {error}")))?;
    let mut by_scope = ByScope::new();
    by_scope.insert(String::new(), requirements("default", &file.default, enforced)?);
    for (transport, scopes) in file.transports.0 {
        for (scope, list) in scopes.0 {
            let name = if scope.is_empty() { &transport } else { &scope };
            if transport != "docker" {
                // These rules are for images that do not come from a registry: they are only checked.
                requirements(name, &list, RequirementFields::parse)?;
                continue;
            }
            if !scope.is_empty() && !scope::is_valid(&scope) && !scope::is_image(&scope) {
                return Err(invalid(format!(
                    "{scope:?}: this scope covers no image: write HOST[:PORT][/PATH], *.HOST, or a whole name with a \
                     tag or a digest, such as docker.io/library/alpine:3"
                )));
            }
            let rules = requirements(name, &list, enforced)?;
            by_scope.insert(scope, rules);
        }
    }
    Ok(by_scope)
}

/// Reads a list of requirements, each with `read`.
fn requirements<T>(
    scope: &str,
    list: &[Box<RawValue>],
    read: impl Fn(&RawValue) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    if list.is_empty() {
        return Err(invalid(format!("{scope}: the list of requirements is empty")));
    }
    let one = |raw: &RawValue| read(raw).map_err(|error| invalid(format!("{scope}: {}", error.message())));
    list.iter().map(|raw| one(raw)).collect()
}

/// Reads a requirement that this crate enforces.
fn enforced(raw: &RawValue) -> Result<Requirement, Error> {
    let fields = RequirementFields::parse(raw)?;
    let present = fields.present();
    match fields.kind.as_str() {
        "sigstoreSigned" => fields.signed_by().map(Requirement::SignedBy),
        "insecureAcceptAnything" | "reject" if !present.is_empty() => {
            Err(invalid(format!("{}: it takes no {}", fields.kind, present.join(", "))))
        }
        "insecureAcceptAnything" => Ok(Requirement::AcceptUnsigned),
        "reject" => Ok(Requirement::Reject),
        kind => Err(cannot_be_enforced(kind)),
    }
}

impl RequirementFields {
    /// Reads a requirement of a known type, and names a type that is unknown before its fields.
    fn parse(raw: &RawValue) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct KindField {
            #[serde(rename = "type")]
            kind: String,
        }
        const KNOWN: [&str; 5] =
            ["insecureAcceptAnything", "reject", "sigstoreSigned", "signedBy", "signedBaseLayer"];
        let broken = |error: serde_json::Error| invalid(error.to_string());
        let KindField { kind } = strict_json::from_slice(raw.get().as_bytes()).map_err(broken)?;
        if !KNOWN.contains(&kind.as_str()) {
            return Err(cannot_be_enforced(&kind));
        }
        strict_json::from_slice(raw.get().as_bytes()).map_err(broken)
    }

    /// Returns the names of the fields that are present, without the type.
    fn present(&self) -> Vec<&'static str> {
        let fields = [
            ("keyPath", self.key_path.is_some()),
            ("keyPaths", self.key_paths.is_some()),
            ("keyData", self.key_data.is_some()),
            ("keyDatas", self.key_datas.is_some()),
            ("signedIdentity", self.signed_identity.is_some()),
            ("keyType", self.key_type.is_some()),
            ("baseLayerIdentity", self.base_layer_identity.is_some()),
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
        let sources: Vec<_> = present.iter().filter(|field| KEYS.contains(field)).collect();
        let [source] = sources[..] else {
            return Err(invalid(
                "sigstoreSigned: exactly one of keyPath, keyPaths, keyData, keyDatas is needed",
            ));
        };
        let paths = self.key_path.iter().chain(self.key_paths.iter().flatten());
        let from_files = paths.map(|path| {
            let text = read_file(path, MAX_PEM as u64)
                .map_err(|error| invalid(format!("{}: {}", path.display(), error.message())))?;
            Ok((path.display().to_string(), text))
        });
        let datas = self.key_data.iter().chain(self.key_datas.iter().flatten());
        let from_text = datas.map(|data| {
            let text: String = data.split(['\r', '\n']).collect();
            let decoded = STANDARD.decode(text).map_err(|_| invalid(format!("{source}: not base64")))?;
            Ok(((*source).to_owned(), decoded))
        });
        let mut pems = Vec::new();
        for key in from_files.chain(from_text) {
            let (name, text) = key?;
            // Each is checked alone, so that the message names it.
            Signer::key(&text).map_err(|error| invalid(format!("{name}: {}", error.message())))?;
            pems.push(text);
        }
        if pems.is_empty() {
            return Err(invalid(format!("sigstoreSigned: {source} is empty")));
        }
        let identity = match &self.signed_identity {
            Some(StrictObject(fields)) => fields.identity()?,
            None => Identity::MatchRepoDigestOrExact,
        };
        let signer = Signer::any_of(pems)?.formats([SignatureFormat::SimpleSigning]).identity(identity);
        signer.check()?;
        Ok(signer)
    }
}

fn cannot_be_enforced(kind: &str) -> Error {
    invalid(format!("the requirement {kind:?} cannot be enforced"))
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

/// Reads a regular file; a read from a FIFO could block.
fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    config_file::read(path, limit).map_err(|error| invalid(error.to_string()))
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidConfig, text)
}
