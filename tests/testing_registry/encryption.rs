//! TLS, by an acceptor of the caller.

use std::io::ErrorKind::UnexpectedEof;
use std::io::Read;
use std::net::TcpStream;

use oci_puller::testing::{Action, Fault, Registry, Target};
use rustls::{ClientConnection, StreamOwned};

use crate::raw::Client;
use crate::tls::{PrivateCa, ServerCertificate};
use crate::{REPOSITORY, SOON, blob_path};

fn tls_client(registry: &Registry, ca: &PrivateCa) -> Client<StreamOwned<ClientConnection, TcpStream>> {
    let name = "127.0.0.1".try_into().unwrap();
    let session = ClientConnection::new(ca.client_config(), name).unwrap();
    Client::over(StreamOwned::new(session, TcpStream::connect(registry.addr()).unwrap()))
}

#[test]
fn an_acceptor_adds_tls() {
    let ca = PrivateCa::new();
    for (certificate, refused_because) in [
        (ServerCertificate::Good, None),
        (ServerCertificate::Expired, Some("Expired")),
        (ServerCertificate::SelfSigned, Some("UnknownIssuer")),
        (ServerCertificate::WrongName, Some("not valid for name")),
    ] {
        let registry = Registry::builder().acceptor(ca.acceptor(certificate)).start().unwrap();
        assert!(registry.url().starts_with("https://127.0.0.1:"));
        match (tls_client(&registry, &ca).get("/v2/"), refused_because) {
            (Ok(answer), None) => assert_eq!(answer.status, 200),
            (Err(error), Some(reason)) => {
                let text = format!("{error} {error:?}");
                assert!(text.contains(reason), "{certificate:?}: {text}");
            }
            (other, _) => panic!("{certificate:?}: {other:?}"),
        }
    }
}

#[test]
fn a_cut_under_tls_is_a_cut() {
    let ca = PrivateCa::new();
    let registry = Registry::builder().acceptor(ca.acceptor(ServerCertificate::Good)).start().unwrap();
    let digest = registry.put_blob(REPOSITORY, vec![1; 1 << 20]);
    registry.fault(Fault::on(Target::Blob).with(Action::Cut(300_000)));
    let answer = tls_client(&registry, &ca).get(&blob_path(&digest)).unwrap();
    assert_eq!((answer.body.len(), answer.broken), (300_000, Some(UnexpectedEof)));
}

#[test]
fn only_known_clients_pass_where_certificates_are_demanded() {
    let ca = PrivateCa::new();
    let registry = Registry::builder().acceptor(ca.acceptor_for_known_clients()).start().unwrap();
    assert!(tls_client(&registry, &ca).get("/v2/").is_err());
    assert!(ca.client_identity().key_pem.starts_with("-----BEGIN PRIVATE KEY-----"));
}

#[test]
fn shutdown_ends_a_handshake_that_never_comes() {
    let ca = PrivateCa::new();
    let registry = Registry::builder().acceptor(ca.acceptor(ServerCertificate::Good)).start().unwrap();
    let mut silent = TcpStream::connect(registry.addr()).unwrap();
    assert!(registry.wait_until(|stats| stats.connections_open == 1, SOON));
    drop(registry);
    assert_eq!(silent.read(&mut [0]).unwrap_or(0), 0);
}
