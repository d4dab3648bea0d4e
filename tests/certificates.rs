//! Certificates of registries: which are accepted, and the errors of the others.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/tls.rs"]
mod tls;

use common::pulls::{hosts_toml, quick};
use oci_puller::testing::images::ImageBuilder;
use oci_puller::testing::{Registry, TokenServer};
use oci_puller::{Error, ErrorKind};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd,
};
use tls::{PrivateCa, ServerCertificate, TlsAcceptor};

fn registry(acceptor: TlsAcceptor) -> (Registry, String) {
    let registry = Registry::builder().acceptor(acceptor).start().unwrap();
    let name = registry.push(&ImageBuilder::new("library/app").layer(3_000).build(), "v1");
    (registry, name)
}

fn pull(registry: &Registry, name: &str, trusted: impl Into<Vec<u8>>) -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let service = quick(dir.path()).tls(registry.host()).ca_certificate(trusted);
    service.build().unwrap().pull(name).map(drop)
}

/// What a self-signed certificate of this machine is, but for what `change` does.
fn self_signed(
    change: impl FnOnce(&mut CertificateParams),
) -> (rcgen::Certificate, KeyPair, CertificateParams) {
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap(), key, params)
}

#[test]
fn a_servers_own_certificate_may_be_given_as_trust() {
    // `openssl req -x509`, as Docker's instructions have it, marks it as an authority.
    let authority = IsCa::Ca(BasicConstraints::Unconstrained);
    type Change = fn(&mut CertificateParams);
    let cases: [(&str, IsCa, Change, Option<&str>); 9] = [
        ("an authority", authority, |_| {}, None),
        ("no authority", IsCa::NoCa, |_| {}, None),
        ("explicitly no authority", IsCa::ExplicitNoCa, |_| {}, None),
        (
            "for servers",
            authority,
            |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
            None,
        ),
        (
            "for clients only",
            IsCa::NoCa,
            |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            Some("InvalidPurpose"),
        ),
        ("expired", authority, |params| params.not_after = date_time_ymd(2020, 1, 1), Some("expired")),
        (
            "not valid yet",
            IsCa::NoCa,
            |params| params.not_before = date_time_ymd(2150, 1, 1),
            Some("not valid yet"),
        ),
        (
            "of another name",
            authority,
            |params| {
                params.subject_alt_names =
                    vec![rcgen::SanType::DnsName("elsewhere.example".try_into().unwrap())];
            },
            Some("not valid for name"),
        ),
        (
            "of another name, and no authority",
            IsCa::NoCa,
            |params| {
                params.subject_alt_names =
                    vec![rcgen::SanType::DnsName("elsewhere.example".try_into().unwrap())];
            },
            Some("not valid for name"),
        ),
    ];
    for (what, is_ca, change, refusal) in cases {
        let (certificate, key, _) = self_signed(|params| {
            params.is_ca = is_ca;
            change(params);
        });
        let (registry, name) = registry(TlsAcceptor::of(&certificate, &key));
        let outcome = pull(&registry, &name, certificate.pem());
        match (outcome, refusal) {
            (Ok(()), None) => {}
            (Err(error), Some(words)) => {
                assert_eq!(error.kind(), ErrorKind::Tls, "{what}: {error}");
                let text = error.to_string().to_lowercase();
                assert!(text.contains(&words.to_lowercase()), "{what}: {error}");
            }
            (outcome, _) => panic!("{what}: {outcome:?}"),
        }
    }
}

#[test]
fn a_certificate_without_the_mark_of_an_authority_is_no_trust_anchor() {
    for (is_ca, is_believed) in
        [(IsCa::Ca(BasicConstraints::Unconstrained), true), (IsCa::NoCa, false), (IsCa::ExplicitNoCa, false)]
    {
        let (given, key, params) = self_signed(|params| params.is_ca = is_ca);
        let issuer = Issuer::new(params, key);
        let server_key = KeyPair::generate().unwrap();
        let signed = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let signed = signed.signed_by(&server_key, &issuer).unwrap();
        let (registry, name) = registry(TlsAcceptor::of(&signed, &server_key));
        let outcome = pull(&registry, &name, given.pem());
        assert_eq!(outcome.is_ok(), is_believed, "{is_ca:?}: {outcome:?}");
    }
}

#[test]
fn a_bad_certificate_in_a_bundle_is_skipped() {
    let ca = PrivateCa::new();
    let broken = "-----BEGIN CERTIFICATE-----\nMIIBnonsense\n-----END CERTIFICATE-----\n";
    let no_base64 = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
    for bundle in [
        format!("{broken}{}", ca.pem()),
        format!("{}{broken}", ca.pem()),
        format!("# a comment\n{no_base64}{broken}{}", ca.pem()),
    ] {
        let (registry, name) = registry(ca.acceptor(ServerCertificate::Good));
        pull(&registry, &name, bundle).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    for useless in [broken, no_base64] {
        let error = quick(dir.path()).ca_certificate(useless).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    }
}

#[test]
fn a_mix_up_of_http_and_https_is_named() {
    let plain = Registry::start().unwrap();
    let name = plain.push(&ImageBuilder::new("library/app").layer(3_000).build(), "v1");
    let dir = tempfile::tempdir().unwrap();
    let error = quick(dir.path()).tls(plain.host()).build().unwrap().pull(&*name).unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Tls, false), "{error}");
    assert!(error.to_string().contains("does not speak TLS"), "{error}");

    let (_registry, name) = registry(PrivateCa::new().acceptor(ServerCertificate::Good));
    let error = quick(dir.path()).build().unwrap().pull(&*name).unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Tls, false), "{error}");
    assert!(error.to_string().contains("the server speaks TLS"), "{error}");
}

#[test]
fn a_client_certificate_that_cannot_be_used_is_refused_with_the_reason() {
    let identity = PrivateCa::new().client_identity();
    let other = PrivateCa::new().client_identity();
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let old =
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIB\n-----END RSA PRIVATE KEY-----\n";
    let strange = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n";
    let dir = tempfile::tempdir().unwrap();
    for (key, words) in [
        (encrypted, "encrypted with a passphrase"),
        (old, "encrypted with a passphrase"),
        ("nonsense", "cannot be read"),
        (strange, "keys are usable if"),
        (&*other.key_pem, "not that of the certificate"),
    ] {
        let builder = quick(dir.path()).client_certificate(identity.certificate_pem.clone(), key);
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

/// A registry whose tokens come from another host; neither has a certificate that is known.
fn registry_and_token_server() -> (Registry, Registry, String) {
    let tokens = Registry::builder()
        .acceptor(PrivateCa::new().acceptor(ServerCertificate::SelfSigned))
        .start()
        .unwrap();
    let (registry, name) = registry(PrivateCa::new().acceptor(ServerCertificate::SelfSigned));
    let server = TokenServer::new().anonymous().realm(format!("{}/token", tokens.url()));
    tokens.require_token(&server);
    registry.require_token(&server);
    (registry, tokens, name)
}

#[test]
fn skip_verify_of_a_host_does_not_cover_its_token_server() {
    let (registry, tokens, name) = registry_and_token_server();
    let dir = tempfile::tempdir().unwrap();
    let hosts = format!("server = '{}'\nskip_verify = true\n", registry.url());
    let folder = hosts_toml(dir.path(), &registry.host(), &hosts);
    let error = quick(dir.path()).hosts_dir(folder).build().unwrap().pull(&*name).unwrap_err();
    assert_eq!((error.kind(), error.host()), (ErrorKind::Tls, Some(&*tokens.host())), "{error}");
    assert_eq!(tokens.stats().requests, 0);
}

#[test]
fn a_hosts_own_authority_and_certificate_are_not_for_the_host_it_redirects_to() {
    let ca = PrivateCa::new();
    let cdn = Registry::builder().acceptor(ca.acceptor(ServerCertificate::Good)).start().unwrap();
    let image = ImageBuilder::new("library/app").layer(30_000).build();
    let registry = Registry::builder().acceptor(ca.acceptor(ServerCertificate::Good)).start().unwrap();
    let name = registry.push(&image, "v1");
    cdn.put_file("/cdn", image.layers()[0].data.clone());
    let redirect = oci_puller::testing::Action::Redirect(format!("{}/cdn", cdn.url()));
    let layer = oci_puller::testing::Fault::on(oci_puller::testing::Target::Blob)
        .path_containing(image.layers()[0].digest.as_str());
    registry.fault(layer.with(redirect));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
    let authority = dir.path().join("ca.pem");
    let hosts = format!("server = '{}'\nca = '{}'\n", registry.url(), authority.display());
    let folder = hosts_toml(dir.path(), &registry.host(), &hosts);
    let error = quick(dir.path()).hosts_dir(&folder).build().unwrap().pull(&*name).unwrap_err();
    assert_eq!((error.kind(), error.host()), (ErrorKind::Tls, Some(&*cdn.host())), "{error}");
    // The service's own authorities are for every host.
    let service = quick(dir.path()).hosts_dir(folder).ca_certificate(ca.pem()).build().unwrap();
    service.pull(&*name).unwrap();
}

/// What is wrong with a certificate, besides its mark.
type Change = fn(&mut CertificateParams);

#[test]
fn a_server_certificate_that_is_marked_as_an_authority_is_verified_as_any_other() {
    let cases: [(&str, Change, Option<&str>); 6] = [
        ("good", |_| {}, None),
        ("with a path length", |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)), None),
        (
            "for servers",
            |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
            None,
        ),
        (
            "for clients only",
            |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            // The purpose is named differently by the two verifiers.
            Some("invalid peer certificate"),
        ),
        ("expired", |params| params.not_after = date_time_ymd(2020, 1, 1), Some("expired")),
        (
            "of another name",
            |params| {
                params.subject_alt_names =
                    vec![rcgen::SanType::DnsName("elsewhere.example".try_into().unwrap())];
            },
            Some("not valid for name"),
        ),
    ];
    let (ca, stranger) = (PrivateCa::new(), PrivateCa::new());
    for (what, change, refusal) in cases {
        let (certificate, key) = ca.issue_marked(change);
        for (trusted, refusal) in [(&ca, refusal), (&stranger, Some("invalid peer certificate"))] {
            let (registry, name) = registry(TlsAcceptor::of(&certificate, &key));
            match (pull(&registry, &name, trusted.pem()), refusal) {
                (Ok(()), None) => {}
                (Err(error), Some(words)) => {
                    assert_eq!(error.kind(), ErrorKind::Tls, "{what}: {error}");
                    let text = error.to_string().to_lowercase();
                    assert!(text.contains(&words.to_lowercase()), "{what}: {error}");
                }
                (outcome, _) => panic!("{what}: {outcome:?}"),
            }
        }
    }
}

#[test]
fn a_marked_server_certificate_that_was_changed_after_it_was_signed_is_refused() {
    let ca = PrivateCa::new();
    let serial = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77];
    let (certificate, key) =
        ca.issue_marked(|params| params.serial_number = Some(rcgen::SerialNumber::from_slice(&serial)));
    let mut changed = certificate.der().to_vec();
    let at = changed.windows(serial.len()).position(|bytes| bytes == serial).unwrap();
    changed[at] ^= 1;
    let (registry, name) = registry(TlsAcceptor::of_der(changed, &key));
    let error = pull(&registry, &name, ca.pem()).unwrap_err();
    assert!(error.to_string().contains("BadSignature"), "{error}");
}

#[test]
fn a_marked_self_signed_certificate_is_refused_unless_it_is_given_as_trust() {
    let (certificate, key, _) =
        self_signed(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    let (registry, name) = registry(TlsAcceptor::of(&certificate, &key));
    let error = pull(&registry, &name, PrivateCa::new().pem()).unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
}
