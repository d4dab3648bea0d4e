//! What real servers refuse: each its own kind, in one line that names host and image.

use std::fs;

use oci_puller::ErrorKind;
use oci_puller::credentials::Credential;
use oci_puller::registry::RegistryImageServiceBuilder;

use crate::access::{registry_of_alice, registry_with_tls};
use crate::images::Layout;
use crate::real::{DockerRegistry, free_port};
use crate::{Test, service_with};

pub const TESTS: &[Test] = &[
    ("what_is_not_there_is_not_found", TOOLS, what_is_not_there),
    ("a_wrong_password_is_unauthorized", TOOLS, a_wrong_password),
    ("plain_http_and_tls_do_not_mix", TOOLS, plain_http_and_tls),
    ("an_authority_nobody_told_of_is_not_trusted", TOOLS, an_unknown_authority),
    ("a_port_where_nobody_listens_refuses_the_connection", &[], nobody_listens),
];

const TOOLS: &[&str] = &["docker-registry", "skopeo", "umoci"];

fn what_is_not_there() {
    let registry = DockerRegistry::start();
    Layout::by_umoci().push(&registry, "app:v1", &[]);
    for image in ["nothing:v1", "app:other"] {
        refused(&format!("{}/{image}", registry.host()), ErrorKind::NotFound, |builder| builder);
    }
    let nothing = "0".repeat(64);
    refused(&format!("{}/app@sha256:{nothing}", registry.host()), ErrorKind::NotFound, |builder| builder);
}

fn a_wrong_password() {
    let (_users, registry, name) = registry_of_alice();
    let line = refused(&name, ErrorKind::Unauthorized, |builder| {
        builder.credential(registry.host(), Credential::basic("alice", "hunter2"))
    });
    assert!(!line.contains("hunter2"), "{line}");
    refused(&name, ErrorKind::Unauthorized, |builder| builder);
}

fn plain_http_and_tls() {
    let (_tls, _registry, name, _authority) = registry_with_tls();
    refused(&name, ErrorKind::Protocol, |builder| builder);

    let registry = DockerRegistry::start();
    let name = format!("{}/app:v1", registry.host());
    refused(&name, ErrorKind::Tls, |builder| builder.tls(registry.host()));
}

fn an_unknown_authority() {
    let (_tls, registry, name, authority) = registry_with_tls();
    refused(&name, ErrorKind::Tls, |builder| builder.tls(registry.host()));
    // Not by this authority, but by another.
    let (_other_tls, other, name, _) = registry_with_tls();
    let told = fs::read(authority).unwrap();
    refused(&name, ErrorKind::Tls, |builder| builder.tls(other.host()).ca_certificate(told));
}

fn nobody_listens() {
    refused(&format!("127.0.0.1:{}/app:v1", free_port()), ErrorKind::ConnectionFailed, |builder| builder);
}

/// Runs a pull that fails, and returns its error.
fn refused(
    image: &str,
    kind: ErrorKind,
    change: impl FnOnce(RegistryImageServiceBuilder) -> RegistryImageServiceBuilder,
) -> String {
    let (_folder, service) = service_with(|builder| change(builder.tries(1)));
    let error = service.pull(image).unwrap_err();
    let line = error.to_string();
    assert_eq!(error.kind(), kind, "{line}");
    let host = image.split('/').next().unwrap();
    assert_eq!(error.image(), Some(image), "{line}");
    assert_eq!(error.host(), Some(host), "{line}");
    assert!(line.contains(image) && !line.contains('\n'), "{line}");
    line
}
