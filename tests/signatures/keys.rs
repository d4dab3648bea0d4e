//! Which keys are accepted, and what is said of those that are not.

use oci_puller::ErrorKind;
use oci_puller::signatures::{Identity, SignaturePolicy, Signer};

use crate::sign::{Key, pem};

fn spki(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let element = |tag: u8, content: &[u8]| {
        let length = (content.len() as u16).to_be_bytes();
        [&[tag, 0x82][..], &length, content].concat()
    };
    let bits = element(3, &[&[0], key].concat());
    element(0x30, &[element(0x30, algorithm), bits].concat())
}

fn rsa(bytes: usize) -> Vec<u8> {
    const ALGORITHM: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    let modulus = [&[0, 0x80][..], &vec![1; bytes - 1]].concat();
    let number = [&[2, 0x82][..], &(modulus.len() as u16).to_be_bytes(), &modulus, &[2, 3, 1, 0, 1]].concat();
    let key = [&[0x30, 0x82][..], &(number.len() as u16).to_be_bytes(), &number].concat();
    spki(ALGORITHM, &key)
}

#[test]
fn keys_that_cannot_be_used_are_named_and_not_shown() {
    const P521: &[u8] = &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0, 0x23];
    const P256: &[u8] =
        &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    const ED448: &[u8] = &[6, 3, 0x2b, 0x65, 0x71];
    for (text, part) in [
        (String::new(), "no PUBLIC KEY block"),
        ("garbage".into(), "no PUBLIC KEY block"),
        (pem("PRIVATE KEY", b"secret"), "a private key"),
        (pem("EC PRIVATE KEY", b"secret"), "a private key"),
        (pem("RSA PRIVATE KEY", b"secret"), "a private key"),
        (pem("ENCRYPTED COSIGN PRIVATE KEY", b"secret"), "a private key"),
        (pem("ENCRYPTED SIGSTORE PRIVATE KEY", b"secret"), "a private key"),
        (pem("CERTIFICATE", b"x"), "a certificate"),
        (pem("PUBLIC KEY", b"x"), "encoding is broken"),
        (pem("PUBLIC KEY", &spki(P521, &[4; 133])), "P-521"),
        (pem("PUBLIC KEY", &spki(P256, &[4; 64])), "encoding is broken"),
        (pem("PUBLIC KEY", &spki(P256, &[2; 65])), "encoding is broken"),
        (pem("PUBLIC KEY", &spki(ED448, &[1; 57])), "type that is not supported"),
        (pem("PUBLIC KEY", &rsa(128)), "an RSA key of 1024 bits"),
        (pem("PUBLIC KEY", &rsa(2048)), "an RSA key of 16384 bits"),
        (format!("{}{}", Key::new().pem(), pem("PRIVATE KEY", b"secret")), "a private key"),
        ("-----BEGIN PUBLIC KEY-----\nnot base64!\n-----END PUBLIC KEY-----\n".into(), "cannot be read"),
        ("x".repeat(70_000), "longer than 64 KiB"),
        (Key::new().pem().repeat(65), "more than 64 keys"),
    ] {
        let error = Signer::key(&text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(error.message().contains(part), "{part}: {error}");
        assert!(!format!("{error:?}").contains("c2VjcmV0"), "{error:?}");
    }
    for bits in [256, 384, 512, 1024] {
        Signer::key(pem("PUBLIC KEY", &rsa(bits))).unwrap();
    }
    assert_eq!(Signer::any_of(Vec::<String>::new()).unwrap_err().kind(), ErrorKind::InvalidConfig);
}

#[test]
fn keys_with_windows_line_ends_and_text_around_them_are_read() {
    let pem = format!("# the release key\n{}", Key::new().pem());
    Signer::key(pem.replace('\n', "\r\n")).unwrap();
    Signer::key(pem).unwrap();
}

#[test]
fn rules_that_contradict_each_other_or_match_nothing_are_refused() {
    let signer = || Key::new().signer();
    let builder = SignaturePolicy::builder;
    let bad_identity = signer().identity(Identity::ExactRepository("r.io/a:1".into()));
    for (policy, part) in [
        (builder().require("alpine", signer()), "docker.io/library/alpine"),
        (builder().require("", signer()), "scope"),
        (builder().reject("r.io/a:1"), "scope"),
        (builder().require("r.io", signer()).accept_unsigned("r.io"), "contradict"),
        (builder().reject("r.io").accept_unsigned("r.io"), "contradict"),
        (builder().require("r.io", bad_identity), "identity"),
        (builder().limits(0, 1), "limits"),
        (builder().limits(1, 2 << 20), "limits"),
    ] {
        let error = policy.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.message().contains(part), "{error}");
    }
    builder().build().unwrap();
}
