//! `pull --pull` and `--quiet`.

use oci_puller::testing::{Action, Fault, Target};

use crate::bench::{Bench, image, registry_with};

#[test]
fn without_a_registry_what_is_in_the_store_can_be_had_by_choice() {
    let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
    let pulled = bench.run(["pull", "--json", &name]).exits(0).json().remove(0);
    let size = pulled["size"].clone();
    registry.shutdown();
    drop(registry);
    for (choice, code) in [("always", 3), ("missing", 0), ("never", 0), ("if-possible", 0)] {
        let ran = bench.run(["pull", "--json", "--retries=0", "--pull", choice, &name]).exits(code);
        let line = &ran.json()[0];
        assert_eq!(line["ok"], code == 0, "{choice}: {ran:#?}");
        if code == 0 {
            for field in ["image_ref", "manifest_digest", "repo_digest", "size"] {
                assert_eq!(line[field], pulled[field], "{choice}: {field}");
            }
            assert_eq!((&line["bytes_fetched"], &line["bytes_reused"]), (&0.into(), &size), "{choice}");
        }
        let warns = ran.stderr.contains("is taken as it is");
        assert_eq!(warns, choice == "if-possible", "{ran:#?}");
    }
}

#[test]
fn what_is_not_in_the_store_is_fetched_unless_no_registry_may_be_asked() {
    for (choice, code, requests) in [("missing", 0, true), ("if-possible", 0, true), ("never", 1, false)] {
        let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
        let ran = bench.run(["pull", "--pull", choice, &name]).exits(code);
        assert_eq!(!registry.requests().is_empty(), requests, "{choice}");
        let tells =
            ran.stderr.contains(&format!("{name}: not found: it is not in the store, and --pull never"));
        assert_eq!(tells, choice == "never", "{ran:#?}");
        registry.forget_requests();
        // Now it is there: only `if-possible` asks again.
        if code == 0 {
            bench.run(["pull", "--pull", choice, &name]).exits(0);
            assert_eq!(registry.requests().is_empty(), choice == "missing", "{choice}");
        }
    }
}

#[test]
fn a_registry_that_refuses_is_not_one_that_does_not_answer() {
    for (status, code) in [(401, 1), (403, 1), (404, 1), (503, 0), (429, 0)] {
        let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
        bench.run(["pull", &name]).exits(0);
        registry.fault(Fault::on(Target::Manifest).with(Action::Status(status)));
        bench.run(["pull", "--retries=0", "--pull=if-possible", &name]).exits(code);
    }
}

#[test]
fn quiet_prints_the_image_refs_and_errors() {
    let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
    let ran = bench.run(["pull", "-q", &name]).exits(0);
    assert_eq!((ran.stdout, ran.stderr), (format!("{}\n", image("app").config_digest()), String::new()));
    let ran = bench.run(["pull", "--quiet", &name, &format!("{}/missing", registry.host())]).exits(1);
    assert_eq!((ran.stdout.lines().count(), ran.stderr.lines().count()), (1, 1), "{ran:#?}");
    let ran = bench.run(["pull", "-q", "--json", &name]).exits(0);
    assert_eq!((ran.json()[0]["ok"].as_bool(), ran.stderr.as_str()), (Some(true), ""));
}
