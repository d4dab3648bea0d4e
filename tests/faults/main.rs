//! The outcome of a pull whose registry misbehaves: each fault, at each kind of request,
//! for a registry alone and for one with a mirror. The table is data; see `table`.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod table;
#[path = "../common/tls.rs"]
mod tls;
mod world;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::pulls::{free_port, quick};
use oci_puller::registry::Resolver;
use oci_puller::testing::Registry;
use oci_puller::testing::images::ImageBuilder;
use oci_puller::{Error, ErrorKind};

use table::{Cell, Expected, Thing, Trouble};
use tls::{PrivateCa, ServerCertificate};
use world::{SLOW_NAME, Setting, World};

/// Most cells wait for a time limit: more threads than processors.
const THREADS: usize = 12;

/// Runs `judge` on each case, on a few threads, and fails with all that it found.
fn judge_all<C: Send>(cases: Vec<C>, judge: impl Fn(C) -> Vec<String> + Sync) {
    let left = Mutex::new(cases.into_iter());
    let faults = Mutex::new(Vec::new());
    let next = || left.lock().unwrap().next();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(case) = next() {
                    let found = judge(case);
                    faults.lock().unwrap().extend(found);
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{} cells are wrong:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn every_fault_has_its_outcome_and_leaves_a_valid_store() {
    let mut cases = Vec::new();
    for &trouble in Trouble::ALL {
        for (thing, cell) in Thing::ALL.into_iter().zip(trouble.row()) {
            for setting in
                [Setting::AlwaysAtTheOnlyHost, Setting::OnceAtTheOnlyHost, Setting::AlwaysAtTheMirror]
            {
                cases.push((trouble, thing, setting, cell));
            }
        }
    }
    assert_eq!(cases.len(), Trouble::ALL.len() * Thing::ALL.len() * 3);
    judge_all(cases, |(trouble, thing, setting, cell)| {
        let world = World::new(trouble, thing, setting);
        let found = judge(&world, expected(cell, setting));
        found.into_iter().map(|fault| format!("{trouble:?} at {thing:?}, {setting:?}: {fault}")).collect()
    });
}

fn expected(cell: Cell, setting: Setting) -> Expected {
    match setting {
        Setting::AlwaysAtTheOnlyHost => cell.always,
        Setting::OnceAtTheOnlyHost => cell.once,
        Setting::AlwaysAtTheMirror => Expected { kind: None, requests: cell.at_mirror },
    }
}

/// What is not as it should be.
fn judge(world: &World, expected: Expected) -> Vec<String> {
    let mut faults = Vec::new();
    let outcome = world.pull();
    let requests = world.requests_for_the_thing();
    let kind = outcome.as_ref().err().map(Error::kind);
    if kind != expected.kind {
        faults.push(format!("{kind:?} and not {:?}: {outcome:?}", expected.kind));
    }
    if requests != expected.requests {
        faults.push(format!("{requests} requests and not {}: {outcome:?}", expected.requests));
    }
    if let Err(error) = &outcome {
        faults.extend(world.faults_of_error(error));
    }
    faults.extend(world.secrets_that_went_astray());
    faults.extend(world.wrong_bytes());
    if world.is_stored() != outcome.is_ok() {
        faults.push(format!("in the store: {}; {outcome:?}", world.is_stored()));
    }
    world.heal();
    if let Err(error) = world.pull() {
        faults.push(format!("the next pull fails: {error:?}"));
    }
    faults.extend(world.wrong_bytes());
    faults
}

/// Looks no name up within the time that tests have.
struct DeafResolver;

impl Resolver for DeafResolver {
    fn resolve(&self, _: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
        thread::sleep(Duration::from_secs(1));
        Err(io::ErrorKind::NotFound.into())
    }
}

#[test]
fn connection_failures_have_their_kind_and_skip_a_mirror() {
    let ca = PrivateCa::new();
    let image = ImageBuilder::new("library/app").layer(5_000).build();
    let with = |certificate| {
        let registry = Registry::builder().acceptor(ca.acceptor(certificate)).start().unwrap();
        registry.push(&image, "v1");
        registry
    };
    let [expired, self_signed, wrong_name] =
        [ServerCertificate::Expired, ServerCertificate::SelfSigned, ServerCertificate::WrongName].map(with);
    let refused = format!("127.0.0.1:{}", free_port());
    for (host, kind, attempts) in [
        (refused, ErrorKind::ConnectionFailed, 3),
        (expired.host(), ErrorKind::Tls, 1),
        (self_signed.host(), ErrorKind::Tls, 1),
        (wrong_name.host(), ErrorKind::Tls, 1),
        (format!("{SLOW_NAME}:443"), ErrorKind::Timeout, 3),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let service = |name: &str| {
            quick(&dir.path().join(name))
                .ca_certificate(ca.pem())
                .tls(&host)
                .connect_timeout(Duration::from_millis(400))
                .resolver(Arc::new(DeafResolver))
        };
        let error = service("alone").build().unwrap().pull(format!("{host}/library/app:v1")).unwrap_err();
        assert_eq!((error.kind(), error.attempts().len()), (kind, attempts), "{error:?}");
        assert_eq!(error.host(), Some(&*host), "{error}");

        let origin = with(ServerCertificate::Good);
        let mirrored =
            service("mirrored").tls(origin.host()).mirror(origin.host(), format!("https://{host}"));
        mirrored.build().unwrap().pull(format!("{}/library/app:v1", origin.host())).unwrap();
    }
}
