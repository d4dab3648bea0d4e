//! What becomes of a pull when its registry misbehaves: each trouble, at each thing that is asked for,
//! for a registry alone and for one with a mirror. The table is data; see `table`.

#[path = "../common/mod.rs"]
mod common;
mod table;
#[path = "../common/tls.rs"]
mod tls;
mod world;

use std::sync::Mutex;
use std::thread;

use table::{Cell, Expected, Thing, Trouble};
use world::{Setting, World};

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
fn every_trouble_has_its_outcome_and_harms_nothing() {
    let mut cases = Vec::new();
    for &trouble in Trouble::ALL {
        for (thing, cell) in Thing::ALL.into_iter().zip(trouble.row()) {
            for setting in [Setting::AlwaysAtTheOnlyHost, Setting::OnceAtTheOnlyHost, Setting::AlwaysAtTheMirror] {
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
    let kind = outcome.as_ref().err().map(oci_puller::Error::kind);
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
