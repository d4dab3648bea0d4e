//! Which key files and rules are accepted, and how those that are not are described.

use oci_puller::ErrorKind;
use oci_puller::signatures::{Identity, SignatureFormat, SignaturePolicy, Signer};

use crate::sign::{Key, pem};

/// A DER element, its length in the shortest form.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let head = match length {
        0..=0x7f => vec![tag, length as u8],
        0x80..=0xff => vec![tag, 0x81, length as u8],
        _ => [&[tag, 0x82][..], &(length as u16).to_be_bytes()].concat(),
    };
    [&head[..], content].concat()
}

fn spki(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let bits = element(3, &[&[0], key].concat());
    element(0x30, &[element(0x30, algorithm), bits].concat())
}

const RSA: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
const P256: &[u8] = &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const P521: &[u8] = &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0, 0x23];
const EXPLICIT: &[u8] = &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 0x30, 3, 2, 1, 1];
const ED25519: &[u8] = &[6, 3, 0x2b, 0x65, 0x70];
const ED448: &[u8] = &[6, 3, 0x2b, 0x65, 0x71];

fn rsa_key(bytes: usize) -> Vec<u8> {
    let modulus = element(2, &[&[0, 0x80][..], &vec![1; bytes - 1]].concat());
    element(0x30, &[&modulus[..], &[2, 3, 1, 0, 1]].concat())
}

#[test]
fn keys_that_cannot_be_used_are_named_and_not_shown() {
    let good = Key::new().pem();
    let with = |label: &str| format!("{good}{}", pem(label, b"secret"));
    let der = spki(ED25519, &[1; 32]);
    // The same element with its length in two bytes.
    let long_length = [&[0x30, 0x81, der[1]][..], &der[2..]].concat();
    for (text, part) in [
        (String::new(), "no PUBLIC KEY block"),
        ("garbage".into(), "no PUBLIC KEY block"),
        (pem("PRIVATE KEY", b"secret"), "a private key"),
        (pem("EC PRIVATE KEY", b"secret"), "a private key"),
        (pem("RSA PRIVATE KEY", b"secret"), "a private key"),
        (pem("ENCRYPTED PRIVATE KEY", b"secret"), "a private key"),
        (pem("OPENSSH PRIVATE KEY", b"secret"), "a private key"),
        (pem("ENCRYPTED COSIGN PRIVATE KEY", b"secret"), "a private key"),
        (pem("ENCRYPTED SIGSTORE PRIVATE KEY", b"secret"), "a private key"),
        (with("PRIVATE KEY"), "a private key"),
        (with("ENCRYPTED COSIGN PRIVATE KEY"), "a private key"),
        (pem("CERTIFICATE", b"x"), "a certificate"),
        (pem("TRUSTED CERTIFICATE", b"x"), "a certificate"),
        (with("CERTIFICATE"), "a certificate"),
        (pem("RSA PUBLIC KEY", &rsa_key(256)), "PKCS#1"),
        (pem("PGP PUBLIC KEY BLOCK", b"x"), "no PUBLIC KEY"),
        (pem("EC PARAMETERS", b"x"), "no PUBLIC KEY"),
        (pem("PUBLIC KEY", b""), "encoding is broken"),
        (pem("PUBLIC KEY", b"x"), "encoding is broken"),
        (pem("PUBLIC KEY", &spki(P521, &[4; 133])), "P-521"),
        (pem("PUBLIC KEY", &spki(EXPLICIT, &[4; 65])), "curve that is not supported"),
        (pem("PUBLIC KEY", &spki(&P256[..9], &[4; 65])), "curve that is not supported"),
        (pem("PUBLIC KEY", &spki(P256, &[4; 64])), "encoding is broken"),
        (pem("PUBLIC KEY", &spki(P256, &[6; 65])), "encoding is broken"),
        (pem("PUBLIC KEY", &spki(P256, &[2; 33])), "compressed"),
        (pem("PUBLIC KEY", &spki(ED25519, &[1; 31])), "encoding is broken"),
        (pem("PUBLIC KEY", &spki(&[ED25519, &[5, 0]].concat(), &[1; 32])), "encoding is broken"),
        (pem("PUBLIC KEY", &long_length), "encoding is broken"),
        (pem("PUBLIC KEY", &[&der[..], &[0]].concat()), "encoding is broken"),
        (pem("PUBLIC KEY", &spki(ED448, &[1; 57])), "type that is not supported"),
        (pem("PUBLIC KEY", &spki(&RSA[..11], &rsa_key(256))), "encoding is broken"),
        (pem("PUBLIC KEY", &spki(RSA, &rsa_key(128))), "an RSA key of 1024 bits"),
        (pem("PUBLIC KEY", &spki(RSA, &rsa_key(255))), "an RSA key of 2040 bits"),
        (pem("PUBLIC KEY", &spki(RSA, &rsa_key(2048))), "an RSA key of 16384 bits"),
        ("-----BEGIN PUBLIC KEY-----\nnot base64!\n-----END PUBLIC KEY-----\n".into(), "cannot be read"),
        (good.replace("-----END PUBLIC KEY-----", ""), "cannot be read"),
        (good.replace("END PUBLIC KEY", "END RSA PUBLIC KEY"), "cannot be read"),
        ("x".repeat(70_000), "longer than 64 KiB"),
        (good.repeat(65), "more than 64 keys"),
    ] {
        let error = Signer::key(&text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(error.message().contains(part), "{part}: {error}");
        assert!(!format!("{error:?}").contains("c2VjcmV0"), "{error:?}");
    }
    for bytes in [256, 384, 512, 1024] {
        Signer::key(pem("PUBLIC KEY", &spki(RSA, &rsa_key(bytes)))).unwrap();
    }
    Signer::key(pem("PUBLIC KEY", &der)).unwrap();
    assert_eq!(Signer::any_of(Vec::<String>::new()).unwrap_err().kind(), ErrorKind::InvalidConfig);
}

#[test]
fn key_files_are_read_as_editors_and_tools_write_them() {
    let pem = Key::new().pem();
    let lines: Vec<&str> = pem.lines().collect();
    let body = lines[1..lines.len() - 1].concat();
    let (first, last) = (lines[0], lines[lines.len() - 1]);
    for text in [
        pem.clone(),
        format!("# the release key\n{pem}\nuntil 2030\n"),
        pem.replace('\n', "\r\n"),
        pem.replace('\n', "\r"),
        pem.replace('\n', " \n"),
        pem.trim_end().to_owned(),
        format!("\u{feff}{pem}"),
        format!("\n\n{pem}\n\n"),
        format!("{first}\n{body}\n{last}"),
        format!("{first}\n\n{}\n{}\n\n{last}\n", &body[..76], &body[76..]),
    ] {
        Signer::key(&text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    }
}

#[test]
fn rules_that_contradict_each_other_or_match_nothing_are_refused() {
    let signer = || Key::new().signer();
    let builder = SignaturePolicy::builder;
    let no_format = signer().formats([]);
    let nameless = signer().formats([SignatureFormat::Bundle]).identity(Identity::MatchRepository);
    let bad_identity = signer().identity(Identity::ExactRepository("r.io/a:1".into()));
    for (policy, part) in [
        (builder().require("alpine", signer()), "docker.io/library/alpine"),
        (builder().require("", signer()), "scope"),
        (builder().reject("r.io/a:1"), "scope"),
        (builder().require("r.io", signer()).accept_unsigned("r.io"), "contradict"),
        (builder().reject("r.io").accept_unsigned("r.io"), "contradict"),
        (builder().require("r.io", bad_identity), "identity"),
        (builder().require("r.io", no_format), "without a signature format"),
        (builder().require("r.io", nameless), "names no repository"),
        (builder().limits(0, 1), "limits"),
        (builder().limits(1, 2 << 20), "limits"),
    ] {
        let error = policy.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.message().contains(part), "{error}");
    }
    builder().build().unwrap();
    for scope in ["docker.io", "docker.io/library", "docker.io/library/alpine", "docker.io/team", "*.r.io"] {
        builder().require(scope, signer()).build().unwrap();
    }
}
