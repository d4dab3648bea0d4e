//! `policy.json`: which files are valid, and which images they accept.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_puller::ErrorKind;
use oci_puller::image::Digest;
use oci_puller::signatures::SignaturePolicy;
use serde_json::{Value, json};

use crate::sign::{Key, World};

fn read(policy: &str) -> Result<SignaturePolicy, oci_puller::Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.json");
    std::fs::write(&path, policy).unwrap();
    SignaturePolicy::from_policy_json(&path)
}

fn signed(fields: Value) -> Value {
    let mut requirement = json!({ "type": "sigstoreSigned" });
    requirement.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    requirement
}

#[test]
fn the_most_specific_scope_of_a_policy_decides() {
    let (key, other, world) = (Key::new(), Key::new(), World::new());
    world.sign_simple(&[&key]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key.pub");
    std::fs::write(&file, key.pem()).unwrap();
    let data = STANDARD.encode(key.pem());
    let in_lines = format!("{}\r\n{}\n", &data[..76], &data[76..]);
    let repository = json!({ "type": "matchRepository" });
    let good = signed(json!({ "keyPath": file, "signedIdentity": repository }));
    let (host, name) = (world.registry.host(), world.repository());
    let reject = json!([{ "type": "reject" }]);
    let accept = json!([{ "type": "insecureAcceptAnything" }]);
    for (default, docker, denied) in [
        (&accept, json!({}), None),
        (&reject, json!({}), Some("refuses it by default")),
        (&reject, json!({ "": [good] }), None),
        (&reject, json!({ &host: [good] }), None),
        (&reject, json!({ &name: [good] }), None),
        (&reject, json!({ &*world.name: [good], &host: reject }), None),
        (&accept, json!({ &name: reject, &host: [good] }), Some("refuses")),
        (&reject, json!({ &host: [signed(json!({ "keyData": data, "signedIdentity": repository }))] }), None),
        (
            &reject,
            json!({ &host: [signed(json!({ "keyData": in_lines, "signedIdentity": repository }))] }),
            None,
        ),
        (&reject, json!({ &host: [{ "type": "insecureAcceptAnything" }, good] }), None),
        (&reject, json!({ &host: [good, { "type": "reject" }] }), Some("refuses")),
        (
            &reject,
            json!({ &host: [signed(json!({ "keyPaths": [file], "signedIdentity": repository }))] }),
            None,
        ),
        (
            &reject,
            json!({ &host: [signed(json!({ "keyDatas": [STANDARD.encode(other.pem()), data], "signedIdentity": repository }))] }),
            None,
        ),
        // cosign records no tag, and the default identity wants it.
        (&reject, json!({ &host: [signed(json!({ "keyPath": file }))] }), Some("matchRepository")),
        (
            &reject,
            json!({ &host: [good, signed(json!({ "keyData": STANDARD.encode(other.pem()), "signedIdentity": repository }))] }),
            Some("by another key"),
        ),
        (
            &reject,
            json!({ &host: [signed(json!({ "keyPath": file, "signedIdentity": { "type": "exactRepository", "dockerRepository": name } }))] }),
            None,
        ),
        (
            &reject,
            json!({ &host: [signed(json!({ "keyPath": file, "signedIdentity": { "type": "exactReference", "dockerReference": world.name } }))] }),
            Some("names"),
        ),
        (&reject, json!({ "*.0.1": [good] }), None),
    ] {
        let policy = json!({ "default": default, "transports": { "docker": docker } }).to_string();
        let pulled = world.pull(&world.name, &read(&policy).unwrap());
        match denied {
            None => drop(pulled.unwrap_or_else(|error| panic!("{policy}: {error}"))),
            Some(part) => {
                let error = pulled.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Denied, "{policy}");
                assert!(error.message().contains(part), "{policy}: {error}");
            }
        }
    }
}

#[test]
fn requirements_that_cannot_be_enforced_are_errors_that_name_scope_and_field() {
    let key = STANDARD.encode(Key::new().pem());
    let scoped = |requirement: Value| {
        json!({ "default": [{ "type": "reject" }], "transports": { "docker": { "r.io/app": [requirement] } } }).to_string()
    };
    let reject = r#"[{"type":"reject"}]"#;
    for (policy, part) in [
        ("".to_owned(), "not a policy"),
        ("{}".to_owned(), "default"),
        (r#"{"default":[]}"#.to_owned(), "default: the list of requirements is empty"),
        (format!(r#"{{"default":{reject},"default":{reject}}}"#), "duplicate"),
        (format!(r#"{{"default":{reject},"defaults":{reject}}}"#), "unknown field `defaults`"),
        (
            format!(
                r#"{{"default":{reject},"transports":{{"docker":{{"r.io":{reject},"r.io":{reject}}}}}}}"#
            ),
            "stands twice",
        ),
        (format!(r#"{{"default":{reject},"transports":{{"docker":{{}},"docker":{{}}}}}}"#), "stands twice"),
        (
            scoped(json!({ "type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k" })),
            "r.io/app: the requirement \"signedBy\"",
        ),
        (scoped(json!({ "type": "cosignSigned" })), "r.io/app: the requirement \"cosignSigned\""),
        (scoped(signed(json!({ "fulcio": {} }))), "r.io/app: sigstoreSigned: fulcio"),
        (scoped(signed(json!({ "pki": {} }))), "r.io/app: sigstoreSigned: pki"),
        (scoped(signed(json!({ "keyData": key, "rekorPublicKeyData": key }))), "rekorPublicKeyData"),
        (scoped(signed(json!({}))), "exactly one of keyPath"),
        (scoped(signed(json!({ "keyData": key, "keyPath": "/k" }))), "exactly one of keyPath"),
        (scoped(signed(json!({ "keyData": "???" }))), "not base64"),
        (scoped(signed(json!({ "keyData": STANDARD.encode("x") }))), "no PUBLIC KEY block"),
        (scoped(signed(json!({ "keyPath": "/does/not/exist.pub" }))), "/does/not/exist.pub"),
        (scoped(signed(json!({ "keyPath": "/" }))), "not a regular file"),
        (
            scoped(signed(json!({ "keyData": key, "signedIdentity": { "type": "matchAnything" } }))),
            "matchAnything",
        ),
        (
            scoped(signed(json!({ "keyData": key, "signedIdentity": { "type": "exactReference" } }))),
            "exactReference",
        ),
        (scoped(signed(json!({ "keyData": key, "more": 1 }))), "unknown field `more`"),
        (scoped(signed(json!({ "keyPaths": [] }))), "keyPaths is empty"),
        (scoped(signed(json!({ "keyDatas": [] }))), "keyDatas is empty"),
        (scoped(signed(json!({ "keyDatas": [key, "???"] }))), "keyDatas: not base64"),
        (scoped(signed(json!({ "keyData": key, "fulcio": null }))), "r.io/app: sigstoreSigned: fulcio"),
        (scoped(signed(json!({ "keyData": key, "keyPath": null }))), "invalid type: null"),
        (scoped(signed(json!({ "keyData": key, "signedIdentity": null }))), "invalid type: null"),
        (
            scoped(signed(json!({ "keyData": key, "signedIdentity": ["matchRepository"] }))),
            "expected an object",
        ),
        (scoped(signed(json!({ "keyData": key, "signedIdentity": {} }))), "missing field `type`"),
        (
            scoped(signed(
                json!({ "keyData": key, "signedIdentity": { "type": "matchExact", "prefix": "r.io" } }),
            )),
            "matchExact",
        ),
        (scoped(json!({ "type": "reject", "keyPath": "/k" })), "takes no keyPath"),
        (scoped(json!({ "type": "insecureAcceptAnything", "signedIdentity": {} })), "missing field `type`"),
        (scoped(json!({ "type": "signedBaseLayer", "baseLayerIdentity": {} })), "\"signedBaseLayer\""),
        (scoped(json!({ "keyData": key })), "missing field `type`"),
        (scoped(json!(["reject"])), "expected an object"),
        (scoped(json!("reject")), "expected an object"),
        (format!("[{reject}]"), "expected an object"),
        (format!(r#"{{"default":{reject},"transports":null}}"#), "expected an object"),
        (format!(r#"{{"default":{reject}}} // a comment"#), "trailing characters"),
        (format!(r#"{{"default":{reject},}}"#), "trailing comma"),
        (r#"{"default":[{"type":"reject","type":"reject"}]}"#.to_owned(), "duplicate field"),
        // Rules of other transports are checked, though nothing enforces them.
        (format!(r#"{{"default":{reject},"transports":{{"atomic":{{"r.io":[]}}}}}}"#), "r.io: the list"),
        (
            format!(r#"{{"default":{reject},"transports":{{"dir":{{"":[{{"type":"reject","x":1}}]}}}}}}"#),
            "dir: unknown field `x`",
        ),
        (
            format!(r#"{{"default":{reject},"transports":{{"dir":{{"":[{{"type":"other"}}]}}}}}}"#),
            "dir: the requirement \"other\"",
        ),
        (" ".repeat(2 << 20), "longer than 1048576 bytes"),
    ] {
        let error = read(&policy).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{policy}");
        assert!(error.message().contains(part), "{policy}: {error}");
    }
    assert!(
        SignaturePolicy::from_policy_json("/does/not/exist")
            .unwrap_err()
            .message()
            .contains("/does/not/exist")
    );
}

#[test]
fn scopes_that_cover_no_image_are_refused() {
    let read_scope = |scope: &str| {
        let rules = json!([{ "type": "reject" }]);
        read(&json!({ "default": rules, "transports": { "docker": { scope: rules } } }).to_string())
    };
    let digest = Digest::sha256(b"image");
    for scope in [
        "",
        "r.io",
        "r.io:5000",
        "localhost",
        "localhost:5000/app",
        "docker.io",
        "docker.io/library",
        "docker.io/library/alpine",
        "docker.io/library/alpine:3",
        "docker.io/team",
        "r.io/team/app:v1",
        &format!("r.io/team/app@{digest}"),
        "*.example.com",
        "*.com",
    ] {
        read_scope(scope).unwrap_or_else(|error| panic!("{scope}: {error}"));
    }
    for scope in [
        "alpine",
        "library/alpine",
        "host/app",
        "docker.io/alpine:3",
        "index.docker.io/library",
        "https://r.io",
        "r.io/",
        "r.io/App",
        "r.io/app:",
        "r.io/app@sha256:12",
        "*",
        "*.example.com:5000",
        "*.example.com/app",
        "example*.*.com",
    ] {
        let error = read_scope(scope).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{scope}");
        assert!(error.message().contains(&format!("{scope:?}: this scope covers no image")), "{error}");
    }
}

#[test]
fn rules_for_other_transports_are_not_enforced() {
    read(
        r#"{"default":[{"type":"insecureAcceptAnything"}],
            "transports":{"docker-daemon":{"":[{"type":"insecureAcceptAnything"}]},
                          "oci":{"/images":[{"type":"sigstoreSigned","keyPath":"/does/not/exist"}]},
                          "atomic":{"r.io":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k"}]}}}"#,
    )
    .unwrap();
}
