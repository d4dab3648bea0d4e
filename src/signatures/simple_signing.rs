//! cosign's [simple signing](https://github.com/sigstore/cosign/blob/v2.5.3/specs/SIGNATURE_SPEC.md): a payload
//! that names the image and its digest, and the signature in an annotation.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::strict_json::{self, StrictObject, UniqueMap};
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

/// What a payload says; trusted only after its signature is verified.
#[derive(Debug)]
pub(super) struct PayloadClaim {
    /// The digest of the signed manifest.
    pub(super) digest: String,
    /// The name of the signed image.
    pub(super) name: String,
}

/// Returns the signature in a layer's annotations; `None` if the layer has no valid one.
pub(super) fn signature_of(layer: &Descriptor) -> Option<Vec<u8>> {
    let text = layer.annotations.get(SIGNATURE)?;
    STANDARD.decode(text.trim()).ok().filter(|bytes| !bytes.is_empty())
}

impl SimpleSignature {
    /// Reads the payload; `None` if it is not one of cosign's. A part that is unknown may restrict the signature, so a
    /// payload that has one is not read.
    pub(super) fn claim(&self) -> Option<PayloadClaim> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct PayloadJson {
            critical: StrictObject<CriticalJson>,
            #[serde(rename = "optional")]
            _optional: Option<UniqueMap<IgnoredAny>>,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct CriticalJson {
            identity: StrictObject<IdentityJson>,
            image: StrictObject<ImageJson>,
            #[serde(rename = "type")]
            kind: String,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct IdentityJson {
            #[serde(rename = "docker-reference")]
            name: String,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct ImageJson {
            #[serde(rename = "docker-manifest-digest")]
            digest: String,
        }
        let PayloadJson { critical: StrictObject(critical), .. } =
            strict_json::from_slice(&self.payload).ok()?;
        let (StrictObject(image), StrictObject(identity)) = (critical.image, critical.identity);
        (critical.kind == COSIGN).then_some(PayloadClaim { digest: image.digest, name: identity.name })
    }
}
