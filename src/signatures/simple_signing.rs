//! cosign's [simple signing](https://github.com/sigstore/cosign/blob/v2.5.3/specs/SIGNATURE_SPEC.md): a payload
//! that names image and digest, and its signature in an annotation.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::image::manifest::Descriptor;

/// The media type of a payload.
pub(super) const MEDIA_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The annotation of a layer that holds the signature of its payload, in base64.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// The `type` of cosign's payloads.
const COSIGN: &str = "cosign container image signature";

/// A payload and its signature.
#[derive(Clone, Debug)]
pub(super) struct SimpleSignature {
    pub(super) payload: Vec<u8>,
    pub(super) signature: Vec<u8>,
}

/// What a payload says; true only after its signature was verified.
#[derive(Debug)]
pub(super) struct Claim {
    /// The digest of the signed manifest.
    pub(super) digest: String,
    /// The name of the signed image.
    pub(super) name: String,
}

/// Returns the signature in a layer's annotations; `None` if there is none that can be read.
pub(super) fn signature_of(layer: &Descriptor) -> Option<Vec<u8>> {
    let text = layer.annotations.get(SIGNATURE)?;
    STANDARD.decode(text.trim()).ok().filter(|bytes| !bytes.is_empty())
}

impl SimpleSignature {
    /// Reads the payload; `None` if it is not one of cosign's.
    pub(super) fn claim(&self) -> Option<Claim> {
        #[derive(Deserialize)]
        struct Payload {
            critical: Critical,
        }
        #[derive(Deserialize)]
        struct Critical {
            identity: PayloadIdentity,
            image: PayloadImage,
            #[serde(rename = "type")]
            kind: String,
        }
        #[derive(Deserialize)]
        struct PayloadIdentity {
            #[serde(rename = "docker-reference")]
            name: String,
        }
        #[derive(Deserialize)]
        struct PayloadImage {
            #[serde(rename = "docker-manifest-digest")]
            digest: String,
        }
        let Payload { critical } = serde_json::from_slice(&self.payload).ok()?;
        (critical.kind == COSIGN)
            .then_some(Claim { digest: critical.image.digest, name: critical.identity.name })
    }
}
