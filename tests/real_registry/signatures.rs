//! Keys and signatures that openssl makes, in a registry without the referrers API.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_puller::ErrorKind;
use oci_puller::image::Digest;
use oci_puller::signatures::{SignaturePolicy, Signer};
use oci_puller::testing::images::ImageBuilder;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::images::Layout;
use crate::real::{DockerRegistry, run};
use crate::{Test, service_with};

pub const TESTS: &[Test] = &[
    ("signatures_by_each_type_of_key_are_verified", TOOLS, each_type_of_key),
    ("bundles_by_each_type_of_key_are_found_by_the_fallback_tag", TOOLS, each_type_of_key_in_a_bundle),
    ("keys_of_other_types_are_refused", &["openssl"], other_keys),
];

const TOOLS: &[&str] = &["docker-registry", "openssl", "skopeo"];

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// Arguments of `openssl genpkey`, and of the command that signs.
type KeyType = (&'static [&'static str], &'static [&'static str]);

const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
const P384: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"];
const RSA_2048: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
const RSA_3072: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"];
const SHA256: &[&str] = &["dgst", "-sha256", "-sign"];
const PSS: &[&str] =
    &["dgst", "-sha256", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest", "-sign"];

const KEY_TYPES: &[KeyType] = &[
    (P256, SHA256),
    (P384, SHA256),
    (P384, &["dgst", "-sha384", "-sign"]),
    (&["-algorithm", "ED25519"], &["pkeyutl", "-rawin", "-sign", "-inkey"]),
    (RSA_2048, SHA256),
    (RSA_2048, PSS),
    (RSA_3072, SHA256),
    (RSA_3072, PSS),
];

/// A key pair in files.
struct KeyPair {
    folder: TempDir,
    sign: &'static [&'static str],
}

impl KeyPair {
    fn new((generate, sign): KeyType) -> Self {
        let pair = KeyPair { folder: tempfile::tempdir().unwrap(), sign };
        let (private, public) = (pair.file("key"), pair.file("key.pub"));
        run("openssl", ["genpkey"].into_iter().chain(generate.iter().copied()).chain(["-out", &private]));
        run("openssl", ["pkey", "-in", &private, "-pubout", "-out", &public]);
        pair
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn public(&self) -> Vec<u8> {
        fs::read(self.file("key.pub")).unwrap()
    }

    /// Returns the signature of a message, in base64.
    fn sign(&self, message: &[u8]) -> String {
        let (private, message_file, signature) =
            (self.file("key"), self.file("message"), self.file("signature"));
        fs::write(&message_file, message).unwrap();
        let command = self.sign.iter().copied().chain([&*private, "-out", &signature]);
        let input: &[&str] = if self.sign.contains(&"pkeyutl") { &["-in"] } else { &[] };
        run("openssl", command.chain(input.iter().copied()).chain([&*message_file]));
        STANDARD.encode(fs::read(signature).unwrap())
    }
}

/// A registry with an image, `team/app:v1`, that skopeo pushed.
struct Pushed {
    registry: DockerRegistry,
    name: String,
    digest: String,
}

impl Pushed {
    fn new() -> Self {
        let registry = DockerRegistry::start();
        let image = ImageBuilder::new("team/app").layer(5_000).build();
        let name = Layout::of(&image).push(&registry, "team/app:v1", &["--preserve-digests"]);
        let digest = registry.tagged("team/app", "v1");
        Pushed { registry, name, digest }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/v2/team/app/{path}", self.registry.host())
    }

    /// Pushes a blob; returns its descriptor.
    fn put_blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::sha256(bytes);
        let begun = agent().post(self.url("blobs/uploads/")).send_empty().unwrap();
        let location = begun.headers()["location"].to_str().unwrap().to_owned();
        let join = if location.contains('?') { '&' } else { '?' };
        let put = agent().put(format!("{location}{join}digest={digest}"));
        put.header("content-type", "application/octet-stream").send(bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest.as_str(), "size": bytes.len() })
    }

    /// Pushes a manifest or an index, by its digest if there is no tag; returns its descriptor.
    fn put_document(&self, media_type: &str, tag: Option<&str>, document: &Value) -> Value {
        let bytes = document.to_string().into_bytes();
        let digest = Digest::sha256(&bytes);
        let put = agent().put(self.url(&format!("manifests/{}", tag.unwrap_or(digest.as_str()))));
        put.header("content-type", media_type).send(&bytes[..]).unwrap();
        json!({ "mediaType": media_type, "digest": digest.as_str(), "size": bytes.len() })
    }

    fn tag(&self) -> String {
        self.digest.replace(':', "-")
    }

    /// Pulls the image with a policy that requires the key; returns the message of a denial.
    fn denial(&self, key: &KeyPair) -> Option<String> {
        let signer = Signer::key(key.public()).unwrap();
        let policy = SignaturePolicy::builder().require(self.registry.host(), signer).build().unwrap();
        let (_folder, service) = service_with(|builder| builder.verifier(Arc::new(policy)));
        let error = service.pull(&*self.name).err()?;
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        Some(error.message().to_owned())
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().proxy(None).build().new_agent()
}

fn each_type_of_key() {
    let pushed = Pushed::new();
    let other = KeyPair::new((P256, SHA256));
    assert!(pushed.denial(&other).unwrap().contains("no signature was found"));
    for key_type in KEY_TYPES {
        let key = KeyPair::new(*key_type);
        let payload = json!({
            "critical": {
                "identity": { "docker-reference": format!("{}/team/app", pushed.registry.host()) },
                "image": { "docker-manifest-digest": pushed.digest },
                "type": "cosign container image signature",
            },
            "optional": null,
        });
        let payload = payload.to_string().into_bytes();
        let mut layer = pushed.put_blob("application/vnd.dev.cosign.simplesigning.v1+json", &payload);
        layer["annotations"] = json!({ "dev.cosignproject.cosign/signature": key.sign(&payload) });
        let config = json!({ "architecture": "", "os": "", "config": {}, "rootfs": { "type": "layers", "diff_ids": [] } });
        let config =
            pushed.put_blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
        pushed.put_document(MANIFEST, Some(&format!("{}.sig", pushed.tag())), &manifest);
        assert_eq!(pushed.denial(&key), None, "{key_type:?}");
        assert_eq!(pushed.denial(&other).as_deref(), Some("1 signature, by another key"), "{key_type:?}");
    }
}

fn each_type_of_key_in_a_bundle() {
    let pushed = Pushed::new();
    let other = KeyPair::new((P256, SHA256));
    for key_type in KEY_TYPES {
        let key = KeyPair::new(*key_type);
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{ "digest": { "sha256": pushed.digest.trim_start_matches("sha256:") } }],
            "predicateType": "https://sigstore.dev/cosign/sign/v1",
            "predicate": {},
        });
        let statement = statement.to_string();
        let payload_type = "application/vnd.in-toto+json";
        let signed = format!("DSSEv1 {} {payload_type} {} {statement}", payload_type.len(), statement.len());
        let bundle = json!({
            "mediaType": BUNDLE,
            "verificationMaterial": { "publicKey": { "hint": "a key" } },
            "dsseEnvelope": {
                "payload": STANDARD.encode(&statement),
                "payloadType": payload_type,
                "signatures": [{ "sig": key.sign(signed.as_bytes()) }],
            },
        });
        let layer = pushed.put_blob(BUNDLE, bundle.to_string().as_bytes());
        let config = pushed.put_blob("application/vnd.oci.empty.v1+json", b"{}");
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": BUNDLE,
            "config": config,
            "layers": [layer],
            "subject": { "mediaType": MANIFEST, "digest": pushed.digest, "size": 1 },
        });
        let entry = pushed.put_document(MANIFEST, None, &manifest);
        let list = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
        pushed.put_document(INDEX, Some(&pushed.tag()), &list);
        assert_eq!(pushed.denial(&key), None, "{key_type:?}");
        assert_eq!(pushed.denial(&other).as_deref(), Some("1 signature, by another key"), "{key_type:?}");
    }
}

fn other_keys() {
    let refused = |text: &[u8], part: &str| {
        let error = Signer::key(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.message().contains(part), "{error}");
    };
    const P521: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"];
    const SECP256K1: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"];
    for (key, part) in [
        (KeyPair::new((&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"], SHA256)), "1024 bits"),
        (KeyPair::new((&["-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"], SHA256)), "type"),
        (KeyPair::new((&["-algorithm", "ED448"], SHA256)), "type"),
        (KeyPair::new((&["-algorithm", "X25519"], SHA256)), "type"),
        (KeyPair::new((P521, SHA256)), "P-521"),
        (KeyPair::new((SECP256K1, SHA256)), "curve"),
    ] {
        refused(&key.public(), part);
    }
    let key = KeyPair::new((P256, SHA256));
    let private = key.file("key");
    refused(&fs::read(&private).unwrap(), "a private key");
    let convert = |arguments: &[&str]| {
        let out = key.file("converted");
        let input = ["-in", &private, "-out", &out];
        run("openssl", arguments.iter().copied().chain(input));
        fs::read(Path::new(&out)).unwrap()
    };
    refused(&convert(&["ec"]), "a private key");
    refused(&convert(&["ec", "-pubout", "-conv_form", "compressed"]), "compressed");
    refused(&convert(&["ec", "-pubout", "-param_enc", "explicit"]), "curve");
    refused(&convert(&["pkcs8", "-topk8", "-passout", "pass:secret"]), "a private key");
    refused(&convert(&["req", "-x509", "-new", "-subj", "/CN=a", "-key", &private]), "a certificate");
    refused(&convert(&["ec", "-pubout", "-outform", "DER"]), "no PUBLIC KEY");
    let rsa = KeyPair::new((RSA_2048, SHA256));
    let out = rsa.file("pkcs1");
    run("openssl", ["rsa", "-in", &rsa.file("key"), "-RSAPublicKey_out", "-out", &out]);
    refused(&fs::read(out).unwrap(), "PKCS#1");
}
