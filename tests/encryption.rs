//! TLS: the certificates that the service trusts, and its client certificates.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/tls.rs"]
mod tls;

use common::pulls::{hosts_toml, quick};
use oci_puller::ErrorKind;
use oci_puller::testing::images::ImageBuilder;
use oci_puller::testing::{Action, Fault, Registry, Target};
use tls::{PrivateCa, ServerCertificate, TlsAcceptor};

fn registry(acceptor: TlsAcceptor) -> (Registry, String) {
    let registry = Registry::builder().acceptor(acceptor).start().unwrap();
    let name = registry.push(&ImageBuilder::new("library/app").layer(300_000).build(), "v1");
    (registry, name)
}

#[test]
fn an_authority_is_trusted_when_it_was_given_and_not_before() {
    let (ca, stranger) = (PrivateCa::new(), PrivateCa::new());
    let (registry, name) = registry(ca.acceptor(ServerCertificate::Good));
    let dir = tempfile::tempdir().unwrap();
    for (given, kind) in [
        (vec![], Some(ErrorKind::Tls)),
        (vec![stranger.pem()], Some(ErrorKind::Tls)),
        // One does not take the place of the other.
        (vec![stranger.pem(), ca.pem()], None),
    ] {
        let builder = quick(dir.path()).tls(registry.host());
        let builder = given.into_iter().fold(builder, |builder, pem| builder.ca_certificate(pem));
        let outcome = builder.build().unwrap().pull(&*name);
        assert_eq!(outcome.as_ref().err().map(|error| error.kind()), kind, "{outcome:?}");
        if let Err(error) = outcome {
            assert!(!error.is_retryable(), "{error}");
            assert_eq!(error.attempts().len(), 1);
        }
    }
}

#[test]
fn hosts_toml_names_authorities_and_client_certificates() {
    let ca = PrivateCa::new();
    let identity = ca.client_identity();
    let (registry, name) = registry(ca.acceptor_for_known_clients());
    let dir = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| std::fs::write(dir.path().join(file), text).unwrap();
    write("ca.pem", &ca.pem());
    write("client.pem", &identity.certificate_pem);
    write("client.key", &identity.key_pem);
    let path = |file: &str| dir.path().join(file).display().to_string();
    for (client, is_let_in) in [
        (format!("client = [['{}', '{}']]", path("client.pem"), path("client.key")), true),
        (String::new(), false),
    ] {
        let hosts = format!("server = '{}'\nca = '{}'\n{client}\n", registry.url(), path("ca.pem"));
        let folder = hosts_toml(dir.path(), &registry.host(), &hosts);
        let outcome = quick(dir.path()).hosts_dir(folder).build().unwrap().pull(&*name);
        assert_eq!(outcome.is_ok(), is_let_in, "{outcome:?}");
    }
}

#[test]
fn a_host_whose_certificate_need_not_be_verified_is_believed() {
    for certificate in
        [ServerCertificate::Expired, ServerCertificate::SelfSigned, ServerCertificate::WrongName]
    {
        let (registry, name) = registry(PrivateCa::new().acceptor(certificate));
        let dir = tempfile::tempdir().unwrap();
        let hosts = format!("server = '{}'\nskip_verify = true\n", registry.url());
        let folder = hosts_toml(dir.path(), &registry.host(), &hosts);
        quick(dir.path()).hosts_dir(folder).build().unwrap().pull(&*name).unwrap();
    }
}

#[test]
fn unusable_settings_are_refused_at_build() {
    let ca = PrivateCa::new();
    let (one, other) = (ca.client_identity(), ca.client_identity());
    let dir = tempfile::tempdir().unwrap();
    let builder = || quick(dir.path());
    for (name, builder) in [
        ("no PEM", builder().ca_certificate("nonsense")),
        ("no certificate", builder().ca_certificate(one.key_pem.clone())),
        ("no key", builder().client_certificate(one.certificate_pem.clone(), "nonsense")),
        ("another's key", builder().client_certificate(one.certificate_pem.clone(), other.key_pem)),
        ("no proxy", builder().proxy("::nonsense::")),
    ] {
        let error = builder.build().expect_err(name);
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{name}: {error}");
    }
}

#[test]
fn a_blob_that_broke_off_under_tls_goes_on() {
    let ca = PrivateCa::new();
    let (registry, name) = registry(ca.acceptor(ServerCertificate::Good));
    registry.fault(Fault::on(Target::Blob).times(2).with(Action::Cut(100_000)));
    let dir = tempfile::tempdir().unwrap();
    let service = quick(dir.path()).tls(registry.host()).ca_certificate(ca.pem()).build().unwrap();
    service.pull(&*name).unwrap();
    let ranged = registry.requests().iter().filter(|request| request.header("range").is_some()).count();
    assert!(ranged >= 1);
}
