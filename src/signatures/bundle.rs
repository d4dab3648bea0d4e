//! Sigstore [bundles](https://github.com/sigstore/protobuf-specs/blob/v0.5.0/protos/sigstore_bundle.proto) v0.1 to
//! v0.3: an in-toto statement in a DSSE envelope, or a signature over the manifest's bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::strict_json::UniqueMap;

const MEDIA_TYPES: [&str; 4] = [
    "application/vnd.dev.sigstore.bundle+json;version=0.1",
    "application/vnd.dev.sigstore.bundle+json;version=0.2",
    "application/vnd.dev.sigstore.bundle+json;version=0.3",
    "application/vnd.dev.sigstore.bundle.v0.3+json",
];
const IN_TOTO: &str = "application/vnd.in-toto+json";
const STATEMENT_TYPES: [&str; 2] = ["https://in-toto.io/Statement/v0.1", "https://in-toto.io/Statement/v1"];
/// The predicate of a signature: SBOMs and provenance have others.
const COSIGN_SIGN: &str = "https://sigstore.dev/cosign/sign/v1";
/// Signatures in an envelope that are tried.
const MAX_SIGNATURES: usize = 8;

/// Reports whether a media or artifact type is of a bundle, of any version.
pub(super) fn is_bundle(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.dev.sigstore.bundle")
}

/// A bundle whose signature is not verified yet.
#[derive(Clone, Debug)]
pub(super) enum Bundle {
    /// A statement in an envelope; the signatures are over [`Envelope::signed_bytes`].
    Statement(Envelope),
    /// A signature over the manifest.
    Message(Vec<u8>),
}

/// A [DSSE](https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md) envelope.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    payload_type: String,
    payload: Vec<u8>,
    pub(super) signatures: Vec<Vec<u8>>,
}

/// What a statement says; true only after its signature was verified.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// These digests are signed, `ALGORITHM:HEX`.
    Signed(Vec<String>),
    /// An attestation such as an SBOM.
    Attestation,
}

impl Bundle {
    /// Parses a bundle; `None` if it is none that is understood.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Json {
            media_type: String,
            dsse_envelope: Option<JsonEnvelope>,
            message_signature: Option<JsonMessage>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct JsonEnvelope {
            payload: String,
            payload_type: String,
            signatures: Vec<JsonSignature>,
        }
        #[derive(Deserialize)]
        struct JsonSignature {
            sig: String,
        }
        #[derive(Deserialize)]
        struct JsonMessage {
            signature: String,
        }
        let json: Json = serde_json::from_slice(bytes).ok()?;
        if !MEDIA_TYPES.contains(&json.media_type.as_str()) {
            return None;
        }
        match (json.dsse_envelope, json.message_signature) {
            (Some(envelope), None) => {
                let signatures = envelope.signatures.iter().take(MAX_SIGNATURES);
                Some(Bundle::Statement(Envelope {
                    payload_type: envelope.payload_type,
                    payload: decoded(&envelope.payload)?,
                    signatures: signatures.map(|signature| decoded(&signature.sig)).collect::<Option<_>>()?,
                }))
            }
            (None, Some(message)) => Some(Bundle::Message(decoded(&message.signature)?)),
            _ => None,
        }
    }
}

impl Envelope {
    /// Returns the bytes that are signed: DSSE's pre-authentication encoding.
    pub(super) fn signed_bytes(&self) -> Vec<u8> {
        let Envelope { payload_type, payload, .. } = self;
        let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
        [head.as_bytes(), payload].concat()
    }

    /// Reads the statement; `None` if it is none.
    pub(super) fn claim(&self) -> Option<Claim> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Statement {
            #[serde(rename = "_type")]
            kind: String,
            #[serde(default)]
            subject: Vec<Subject>,
            predicate_type: String,
        }
        #[derive(Deserialize)]
        struct Subject {
            #[serde(default)]
            digest: UniqueMap<String>,
        }
        if self.payload_type != IN_TOTO {
            return None;
        }
        let statement: Statement = serde_json::from_slice(&self.payload).ok()?;
        if !STATEMENT_TYPES.contains(&statement.kind.as_str()) {
            return None;
        }
        if statement.predicate_type != COSIGN_SIGN {
            return Some(Claim::Attestation);
        }
        let digests = statement.subject.into_iter().flat_map(|subject| subject.digest.0);
        Some(Claim::Signed(digests.map(|(algorithm, hex)| format!("{algorithm}:{hex}")).collect()))
    }
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}
