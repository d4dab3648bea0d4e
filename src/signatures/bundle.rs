//! Sigstore [bundles](https://github.com/sigstore/protobuf-specs/blob/v0.5.0/protos/sigstore_bundle.proto) v0.1 to
//! v0.3: an in-toto statement in a DSSE envelope, or a signature over the manifest's bytes.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::strict_json::{self, StrictObject, UniqueMap};

const MEDIA_TYPES: [&str; 4] = [
    "application/vnd.dev.sigstore.bundle+json;version=0.1",
    "application/vnd.dev.sigstore.bundle+json;version=0.2",
    "application/vnd.dev.sigstore.bundle+json;version=0.3",
    "application/vnd.dev.sigstore.bundle.v0.3+json",
];
const IN_TOTO: &str = "application/vnd.in-toto+json";
const STATEMENT_TYPES: [&str; 2] = ["https://in-toto.io/Statement/v0.1", "https://in-toto.io/Statement/v1"];
/// The predicate type of a signature; SBOMs and provenance have other types.
const COSIGN_SIGN: &str = "https://sigstore.dev/cosign/sign/v1";
/// Base64 as the [JSON of protocol buffers](https://protobuf.dev/programming-guides/json/) allows it.
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, ANY_PADDING);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, ANY_PADDING);
const ANY_PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

/// Returns whether a media type or artifact type is that of a bundle, of any version.
pub(super) fn is_bundle(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.dev.sigstore.bundle")
}

/// A bundle whose signature is not verified yet.
#[derive(Clone, Debug)]
pub(super) enum Bundle {
    /// A statement in an envelope; the signature is over [`Envelope::signed_bytes`].
    Statement(Envelope),
    /// A signature over the manifest.
    Message(Vec<u8>),
}

/// A [DSSE](https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md) envelope.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    payload_type: String,
    payload: Vec<u8>,
    pub(super) signature: Vec<u8>,
}

/// What a statement says; trusted only after its signature is verified.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StatementClaim {
    /// These digests are signed, `ALGORITHM:HEX`.
    Signed(Vec<String>),
    /// An attestation such as an SBOM.
    Attestation,
}

impl Bundle {
    /// Parses a bundle; `None` if it is not valid.
    ///
    /// Reads the JSON of protocol buffers, which allows a field's original name beside its camel-case name.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct BundleJson {
            #[serde(rename = "mediaType", alias = "media_type")]
            media_type: String,
            #[serde(rename = "dsseEnvelope", alias = "dsse_envelope")]
            envelope: Option<StrictObject<EnvelopeJson>>,
            #[serde(rename = "messageSignature", alias = "message_signature")]
            message: Option<StrictObject<MessageJson>>,
        }
        #[derive(Deserialize)]
        struct EnvelopeJson {
            payload: String,
            #[serde(rename = "payloadType", alias = "payload_type")]
            payload_type: String,
            signatures: Vec<StrictObject<SignatureJson>>,
        }
        #[derive(Deserialize)]
        struct SignatureJson {
            sig: String,
        }
        #[derive(Deserialize)]
        struct MessageJson {
            signature: String,
        }
        let json: BundleJson = strict_json::from_slice(bytes).ok()?;
        if !MEDIA_TYPES.contains(&json.media_type.as_str()) {
            return None;
        }
        match (json.envelope, json.message) {
            (Some(StrictObject(envelope)), None) => {
                // The bundle's specification allows exactly one.
                let [StrictObject(signature)] = &envelope.signatures[..] else { return None };
                Some(Bundle::Statement(Envelope {
                    payload_type: envelope.payload_type,
                    payload: decoded(&envelope.payload)?,
                    signature: decoded(&signature.sig)?,
                }))
            }
            (None, Some(StrictObject(message))) => Some(Bundle::Message(decoded(&message.signature)?)),
            _ => None,
        }
    }
}

impl Envelope {
    /// Returns the signed bytes: DSSE's pre-authentication encoding.
    pub(super) fn signed_bytes(&self) -> Vec<u8> {
        let Envelope { payload_type, payload, .. } = self;
        let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
        [head.as_bytes(), payload].concat()
    }

    /// Reads the statement; `None` if it is not valid.
    pub(super) fn claim(&self) -> Option<StatementClaim> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Statement {
            #[serde(rename = "_type")]
            kind: String,
            #[serde(default)]
            subject: Vec<StrictObject<Subject>>,
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
        let statement: Statement = strict_json::from_slice(&self.payload).ok()?;
        if !STATEMENT_TYPES.contains(&statement.kind.as_str()) {
            return None;
        }
        if statement.predicate_type != COSIGN_SIGN {
            return Some(StatementClaim::Attestation);
        }
        let digests = statement.subject.into_iter().flat_map(|StrictObject(subject)| subject.digest.0);
        Some(StatementClaim::Signed(digests.map(|(algorithm, hex)| format!("{algorithm}:{hex}")).collect()))
    }
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    let engine = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    engine.decode(text).ok()
}
