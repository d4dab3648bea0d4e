//! Which signatures count, where they are found, and how denials describe the others.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_puller::image::Digest;
use oci_puller::signatures::{Identity, SignatureFormat, SignaturePolicy, Signer};
use oci_puller::testing::images::ImageBuilder;
use oci_puller::testing::{Action, Fault, Registry, SeenRequest, Stage, Target};
use oci_puller::{Error, ErrorKind, PulledImage};
use serde_json::{Value, json};

use crate::sign::*;

#[track_caller]
fn denied(pulled: Result<PulledImage, Error>, part: &str) {
    let error = pulled.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Denied, false), "{error}");
    assert!(error.message().contains(part), "{error}");
}

#[test]
fn without_a_signature_nothing_is_pulled() {
    let world = World::new();
    denied(world.pull(&world.name, &world.policy(Key::new().signer())), "no signature");
    assert_eq!(world.registry.stats().blobs, 0, "no blob is fetched before the verdict");
}

#[test]
fn a_signature_under_cosigns_tag_counts_if_a_key_of_the_rule_made_it() {
    let (k1, k2) = (Key::new(), Key::new());
    let world = World::new();
    world.sign_simple(&[&k1]);
    world.pull(&world.name, &world.policy(k1.signer())).unwrap();
    world.sign_simple(&[&k2]);
    denied(world.pull(&world.name, &world.policy(k1.signer())), "1 signature, by another key");
    world.sign_simple(&[&k2, &k1]);
    world.pull(&world.name, &world.policy(k1.signer())).unwrap();
    world.sign_simple(&[&k2, &k2]);
    denied(world.pull(&world.name, &world.policy(k1.signer())), "2 signatures: 2 by another key");
}

#[test]
fn each_of_several_signers_must_have_signed_and_one_of_rotated_keys() {
    let (k1, k2, k3) = (Key::new(), Key::new(), Key::new());
    let world = World::new();
    world.sign_simple(&[&k1, &k2]);
    let host = world.registry.host();
    let both = |one: &Key, other: &Key| {
        SignaturePolicy::builder()
            .require(&host, one.signer())
            .require(&host, other.signer())
            .build()
            .unwrap()
    };
    world.pull(&world.name, &both(&k1, &k2)).unwrap();
    denied(world.pull(&world.name, &both(&k1, &k3)), "by another key");
    let rotated = Signer::any_of([k3.pem(), k2.pem()]).unwrap();
    world.pull(&world.name, &world.policy(rotated)).unwrap();
    let in_one_file = Signer::key(format!("{}{}", k3.pem(), k1.pem())).unwrap();
    world.pull(&world.name, &world.policy(in_one_file)).unwrap();
}

#[test]
fn a_signature_of_another_image_or_another_repository_does_not_count() {
    let (key, world) = (Key::new(), World::new());
    let other = Digest::sha256(b"another image");
    let foreign = payload(&other, &world.repository());
    world.put_simple(world.image.digest(), &[(foreign.clone(), key.sign(&foreign))]);
    denied(world.pull(&world.name, &world.policy(key.signer())), &format!("signs {other}"));
    world.sign_simple_as(world.image.digest(), "other.io/team/app", &[&key]);
    denied(world.pull(&world.name, &world.policy(key.signer())), "names other.io/team/app");
}

#[test]
fn identities_decide_about_tags_and_mirrors() {
    let (key, world) = (Key::new(), World::new());
    let repository = world.repository();
    let by_digest = format!("{repository}@{}", world.image.digest());
    let prefix = Identity::Remap { prefix: world.registry.host(), signed_prefix: "upstream.io".into() };
    for (signed, image, identity, accepts) in [
        (format!("{repository}:v2"), &world.name, Identity::MatchRepository, true),
        (format!("{repository}:v2"), &world.name, Identity::MatchRepoDigestOrExact, false),
        (repository.clone(), &world.name, Identity::MatchRepository, true),
        (repository.clone(), &world.name, Identity::MatchRepoDigestOrExact, false),
        (repository.clone(), &by_digest, Identity::MatchRepository, true),
        (repository.clone(), &by_digest, Identity::MatchRepoDigestOrExact, false),
        (format!("{repository}:v9"), &by_digest, Identity::MatchRepoDigestOrExact, true),
        (format!("{repository}:v1"), &world.name, Identity::MatchRepoDigestOrExact, true),
        (format!("{repository}:v1"), &world.name, Identity::MatchExact, true),
        ("upstream.io/team/app:v1".to_owned(), &world.name, Identity::MatchRepository, false),
        ("upstream.io/team/app:v1".to_owned(), &world.name, prefix, true),
    ] {
        world.sign_simple_as(world.image.digest(), &signed, &[&key]);
        let policy = world.policy(key.signer().identity(identity.clone()));
        let pulled = world.pull(image, &policy);
        assert_eq!(pulled.is_ok(), accepts, "{signed} {image} {identity:?}: {pulled:?}");
        if let Err(error) = pulled
            && identity == Identity::MatchRepoDigestOrExact
        {
            assert!(error.message().contains("matchRepository"), "it names the remedy: {error}");
        }
    }
}

#[test]
fn the_index_or_this_platforms_manifest_must_be_signed() {
    let (key, world) = (Key::new(), World::new());
    world.sign_simple_as(&world.platform("linux/arm64"), &world.repository(), &[&key]);
    denied(world.pull(&world.name, &world.policy(key.signer())), "no signature");
    world.sign_simple_as(&world.platform("linux/amd64"), &world.repository(), &[&key]);
    world.pull(&world.name, &world.policy(key.signer())).unwrap();
}

#[test]
fn a_bundle_is_found_by_the_referrers_tag_with_and_without_its_type() {
    let (key, world) = (Key::new(), World::new());
    let digest = world.image.digest();
    let mut entry = world.put_bundle(digest, &bundle(&key, &statement(&[digest], COSIGN_SIGN)));
    world.list_by_tag(digest, std::slice::from_ref(&entry));
    world.pull(&world.name, &world.policy(key.signer())).unwrap();
    entry.as_object_mut().unwrap().remove("artifactType");
    world.list_by_tag(digest, &[entry]);
    world.pull(&world.name, &world.policy(key.signer())).unwrap();
    denied(world.pull(&world.name, &world.policy(Key::new().signer())), "by another key");
}

#[test]
fn a_bundle_is_found_by_the_referrers_api_on_any_page() {
    let (key, world) = (Key::new(), World::new().with_referrers_api());
    let digest = world.image.digest();
    let entry = world.put_bundle(digest, &bundle(&key, &statement(&[digest], COSIGN_SIGN)));
    let path = format!("/v2/team/app/referrers/{digest}");
    world.pull(&world.name, &world.policy(key.signer())).unwrap();

    let link = format!("<{path}?page=2>; rel=\"next\"");
    let page = |is_second: bool, entries: &[serde_json::Value]| {
        Fault::on(Target::Referrers)
            .path_containing(digest.as_str())
            .when(move |request| request.query.contains("page=2") == is_second)
            .with(Action::Body(index(entries)))
    };
    world.registry.fault(page(false, &[]).with(Action::header("Link", &link)));
    world.registry.fault(page(true, &[entry]));
    world.pull(&world.name, &world.policy(key.signer())).unwrap();
}

#[test]
fn a_bundle_must_be_a_signature_of_this_image_and_unchanged() {
    let (key, world) = (Key::new(), World::new());
    let digest = world.image.digest();
    let other = Digest::sha256(b"another image");
    let signed = |statement: &[u8]| bundle(&key, statement);
    let good = statement(&[digest], COSIGN_SIGN);
    let mut changed = signed(&statement(&[&other], COSIGN_SIGN));
    changed["dsseEnvelope"]["payload"] = STANDARD.encode(&good).into();
    let mut cut = signed(&good);
    cut["dsseEnvelope"]["signatures"][0]["sig"] = STANDARD.encode(b"\x30\x06").into();
    let mut odd_type = signed(&good);
    odd_type["mediaType"] = "application/vnd.dev.sigstore.bundle.v9+json".into();
    let mut twice = signed(&good);
    let signature = twice["dsseEnvelope"]["signatures"][0].clone();
    twice["dsseEnvelope"]["signatures"].as_array_mut().unwrap().push(signature);
    let mut odd_payload = signed(&good);
    odd_payload["dsseEnvelope"]["payloadType"] = "application/json".into();
    let mut as_list = signed(&good);
    as_list["dsseEnvelope"] = json!([as_list["dsseEnvelope"]["payload"], "application/vnd.in-toto+json", []]);
    let mut both = signed(&good);
    both["messageSignature"] = json!({ "signature": "AA==" });
    for (bundle, part) in [
        (signed(&statement(&[digest], "https://spdx.dev/Document")), "an attestation, not a signature"),
        (signed(&statement(&[digest], "https://slsa.dev/provenance/v1")), "an attestation, not a signature"),
        (signed(&statement(&[&other], COSIGN_SIGN)), &*format!("signs {other}")),
        (signed(&statement(&[], COSIGN_SIGN)), "signs nothing"),
        (signed(b"no json"), "not understood"),
        (changed, "by another key"),
        (cut, "by another key"),
        (odd_type, "not understood"),
        (both, "not understood"),
        (twice, "not understood"),
        (as_list, "not understood"),
        (odd_payload, "by another key"),
        (json!([BUNDLE]), "not understood"),
    ] {
        let entry = world.put_bundle(digest, &bundle);
        world.list_by_tag(digest, &[entry]);
        denied(world.pull(&world.name, &world.policy(key.signer())), part);
    }
    let two = world.put_bundle(digest, &signed(&statement(&[&other, digest], COSIGN_SIGN)));
    world.list_by_tag(digest, &[two]);
    world.pull(&world.name, &world.policy(key.signer())).unwrap();
}

/// The JSON of protocol buffers has more than one spelling for the same bundle.
#[test]
fn a_bundle_is_read_in_each_spelling_that_its_format_allows() {
    let (key, world) = (Key::new(), World::new());
    let digest = world.image.digest();
    // Several, so that the base64 has each of the characters that differ, and each padding.
    let bundles: Vec<_> = (0..8)
        .map(|n| {
            let mut text = statement(&[digest], COSIGN_SIGN);
            text.extend(vec![b' '; n]);
            bundle(&key, &text)
        })
        .collect();
    let base64url = |text: &str| text.replace('+', "-").replace('/', "_");
    let unpadded = |text: &str| text.trim_end_matches('=').to_owned();
    let spell = |bundle: &Value, spell: &dyn Fn(&str) -> String| {
        let mut bundle = bundle.clone();
        let envelope = &mut bundle["dsseEnvelope"];
        envelope["payload"] = spell(envelope["payload"].as_str().unwrap()).into();
        let signature = &mut envelope["signatures"][0];
        signature["sig"] = spell(signature["sig"].as_str().unwrap()).into();
        bundle
    };
    let mut spellings = Vec::new();
    for bundle in &bundles {
        spellings.push(spell(bundle, &base64url));
        spellings.push(spell(bundle, &unpadded));
        spellings.push(spell(bundle, &|text| unpadded(&base64url(text))));
    }
    let text = bundles[0].to_string();
    let snake = text.replace("mediaType", "media_type").replace("dsseEnvelope", "dsse_envelope");
    spellings.push(serde_json::from_str(&snake.replace("payloadType", "payload_type")).unwrap());
    let mut nulls = bundles[0].clone();
    nulls["messageSignature"] = Value::Null;
    spellings.push(nulls);
    for media_type in [
        "application/vnd.dev.sigstore.bundle+json;version=0.1",
        "application/vnd.dev.sigstore.bundle+json;version=0.2",
        "application/vnd.dev.sigstore.bundle+json;version=0.3",
    ] {
        let mut older = bundles[0].clone();
        older["mediaType"] = media_type.into();
        spellings.push(older);
    }
    for spelling in spellings {
        let entry = world.put_bundle(digest, &spelling);
        world.list_by_tag(digest, &[entry]);
        let pulled = world.pull(&world.name, &world.policy(key.signer()));
        pulled.unwrap_or_else(|error| panic!("{spelling}: {error}"));
    }
}

#[test]
fn a_message_signature_is_over_the_manifests_bytes() {
    let (key, world) = (Key::new(), World::new());
    let digest = world.image.digest();
    for (signed, accepts) in [(world.image.manifest_bytes(), true), (&b"something else"[..], false)] {
        let bundle = json!({
            "mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.2",
            "verificationMaterial": {},
            "messageSignature": { "signature": STANDARD.encode(key.sign(signed)) },
        });
        let entry = world.put_bundle(digest, &bundle);
        world.list_by_tag(digest, &[entry]);
        assert_eq!(world.pull(&world.name, &world.policy(key.signer())).is_ok(), accepts);
    }
}

#[test]
fn a_bundle_does_not_meet_an_identity_that_was_asked_for() {
    let (key, world) = (Key::new(), World::new());
    let digest = world.image.digest();
    let entry = world.put_bundle(digest, &bundle(&key, &statement(&[digest], COSIGN_SIGN)));
    world.list_by_tag(digest, &[entry]);
    let named = world.policy(key.signer().identity(Identity::MatchRepository));
    denied(world.pull(&world.name, &named), "names no repository");
    let simple_only = world.policy(key.signer().formats([SignatureFormat::SimpleSigning]));
    denied(world.pull(&world.name, &simple_only), "a format that the policy does not accept");
}

#[test]
fn payloads_that_are_changed_or_of_another_type_do_not_count() {
    let (key, world) = (Key::new(), World::new());
    let digest = world.image.digest();
    let good = payload(digest, &world.repository());
    let mut other_type: serde_json::Value = serde_json::from_slice(&good).unwrap();
    other_type["critical"]["type"] = "atomic container signature".into();
    let other_type = other_type.to_string().into_bytes();
    let changed = |pointer: &str, value: Value| {
        let mut payload: Value = serde_json::from_slice(&good).unwrap();
        payload.pointer_mut(pointer).unwrap().as_object_mut().unwrap().insert("more".into(), value);
        payload.to_string().into_bytes()
    };
    let restricted = changed("/critical", json!("only on Sundays"));
    let image = changed("/critical/image", json!(1));
    let outer = changed("", json!(1));
    let good_text = String::from_utf8(good.clone()).unwrap();
    let twice = good_text.replacen("{", r#"{"critical":{},"#, 1).into_bytes();
    let list =
        json!([serde_json::from_slice::<Value>(&good).unwrap()["critical"], null]).to_string().into_bytes();
    for (payload, signature, part) in [
        ([&good[..], b" "].concat(), key.sign(&good), "by another key"),
        (good.clone(), key.sign(&good)[..40].to_vec(), "by another key"),
        (good.clone(), Vec::new(), "without the annotation"),
        (other_type.clone(), key.sign(&other_type), "not cosign's"),
        (b"{}".to_vec(), key.sign(b"{}"), "not cosign's"),
        (restricted.clone(), key.sign(&restricted), "not cosign's"),
        (image.clone(), key.sign(&image), "not cosign's"),
        (outer.clone(), key.sign(&outer), "not cosign's"),
        (twice.clone(), key.sign(&twice), "not cosign's"),
        (list.clone(), key.sign(&list), "not cosign's"),
    ] {
        world.put_simple(digest, &[(payload, signature)]);
        denied(world.pull(&world.name, &world.policy(key.signer())), part);
    }
    let mut annotated: Value = serde_json::from_slice(&good).unwrap();
    annotated["optional"] = json!({ "creator": "a tool", "more": { "deep": [1, null] } });
    let mut bare: Value = serde_json::from_slice(&good).unwrap();
    bare.as_object_mut().unwrap().remove("optional");
    for payload in [
        serde_json::to_vec_pretty(&annotated).unwrap(),
        bare.to_string().into_bytes(),
        good_text.replace("cosign", "\\u0063osign").into_bytes(),
    ] {
        world.put_simple(digest, &[(payload.clone(), key.sign(&payload))]);
        world.pull(&world.name, &world.policy(key.signer())).unwrap();
    }
}

#[test]
fn the_most_specific_rule_counts_alone() {
    let (key, world) = (Key::new(), World::new());
    let host = world.registry.host();
    let builder = || SignaturePolicy::builder().require(&host, key.signer());
    let repository = world.repository();
    world.pull(&world.name, &builder().accept_unsigned(&repository).build().unwrap()).unwrap();
    denied(world.pull(&world.name, &builder().reject(&repository).build().unwrap()), "refuses");
    denied(
        world.pull(&world.name, &SignaturePolicy::builder().require("r.io", key.signer()).build().unwrap()),
        "no rule of the signature policy covers it",
    );
}

#[test]
fn trouble_on_the_way_keeps_its_kind() {
    let (key, world) = (Key::new(), World::new().with_referrers_api());
    for (action, kind, is_retried) in [
        (Action::Status(401), ErrorKind::Unauthorized, false),
        (Action::Status(403), ErrorKind::Denied, false),
        (Action::Status(429), ErrorKind::RateLimited, true),
        (Action::Status(500), ErrorKind::Unavailable, true),
        (Action::Hold(Stage::BeforeHead), ErrorKind::Timeout, true),
        (Action::Reset(Stage::BeforeHead), ErrorKind::ConnectionFailed, true),
    ] {
        for (target, path) in [(Target::Manifest, ".sig"), (Target::Referrers, "")] {
            let path = format!("{}{path}", world.image.digest().hex());
            let fault = world.registry.fault(Fault::on(target).path_containing(&path).with(action.clone()));
            let error = world.pull_with(&world.name, &world.policy(key.signer()), |builder| {
                builder.tries(2).manifest_response_timeout(Duration::from_millis(300))
            });
            let error = error.unwrap_err();
            assert_eq!(error.kind(), kind, "{action:?} {target:?}: {error}");
            assert!(!error.message().contains("signature"), "no verdict was reached: {error}");
            assert_eq!(fault.fired() > 1, is_retried, "{action:?} {target:?}: {} requests", fault.fired());
            fault.remove();
        }
    }
}

#[test]
fn a_mirror_without_signatures_does_not_hide_those_of_the_registry() {
    let key = Key::new();
    for is_bundle in [false, true] {
        let world = World::new();
        let digest = world.image.digest();
        match is_bundle {
            false => world.sign_simple(&[&key]),
            true => {
                let entry = world.put_bundle(digest, &bundle(&key, &statement(&[digest], COSIGN_SIGN)));
                world.list_by_tag(digest, &[entry]);
            }
        }
        let mirror = Registry::start().unwrap();
        mirror.push(&world.image, "v1");
        let mirrored = |policy: &SignaturePolicy| {
            world.pull_with(&world.name, policy, |b| b.mirror(world.registry.host(), mirror.url()))
        };
        mirrored(&world.policy(key.signer())).unwrap();
        denied(mirrored(&world.policy(Key::new().signer())), "by another key");
        assert!(mirror.stats().blobs > 0, "the mirror serves the image");
    }
}

/// The requests of one way are sent one after the other, so each is a round trip. The other ways are held.
#[test]
fn each_way_to_a_signature_takes_few_requests() {
    let key = Key::new();
    for (way, requests) in [("tag", 2), ("referrers", 3), ("fallback tag", 4)] {
        let mut world = World::new();
        let image = ImageBuilder::new("team/app").seed(7).layer(5_000).build();
        let name = world.registry.push(&image, "single");
        let digest = image.digest();
        if way == "tag" {
            world.sign_simple_as(digest, &world.repository(), &[&key]);
        } else {
            let entry = world.put_bundle(digest, &bundle(&key, &statement(&[digest], COSIGN_SIGN)));
            world.list_by_tag(digest, &[entry]);
        }
        if way == "referrers" {
            world = world.with_referrers_api();
        }
        let other = match way {
            "tag" => Fault::on(Target::Referrers),
            _ => Fault::on(Target::Manifest).path_containing(".sig"),
        };
        let held = world.registry.fault(other.with(Action::Hold(Stage::BeforeHead)));
        world.registry.forget_requests();
        world.pull(&name, &world.policy(key.signer())).unwrap();
        let seen = world.registry.requests();
        let is_held = |request: &&SeenRequest| match way {
            "tag" => request.target == Target::Referrers,
            _ => request.path.ends_with(".sig"),
        };
        // Before them comes the manifest, after them config and layer.
        let on_the_way = seen.iter().filter(|request| !is_held(request)).count() - 3;
        assert_eq!(on_the_way, requests, "{way}: {seen:#?}");
        held.release();
    }
}

#[test]
fn a_good_signature_does_not_wait_for_the_other_places() {
    let (key, world) = (Key::new(), World::new().with_referrers_api());
    world.sign_simple(&[&key]);
    let held = Fault::on(Target::Referrers);
    let held = world.registry.fault(held.with(Action::Hold(Stage::BeforeHead)));
    let began = std::time::Instant::now();
    world.pull(&world.name, &world.policy(key.signer())).unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    held.release();
}
