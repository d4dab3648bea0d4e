use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::time::Duration;

use oci_puller::testing::{Action, Fault, Stage, Target};
use rustix::process::{Pid, Signal, kill_process};

use crate::bench::{Bench, image, registry_with};

const SOON: Duration = Duration::from_secs(20);

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn ctrl_c_ends_a_pull_and_leaves_a_store_that_the_next_one_goes_on_with() {
    for signal in [Signal::INT, Signal::TERM] {
        let (bench, (registry, first)) = (Bench::new(), registry_with("first"));
        let second = registry.push(&image("second"), "2");
        let held = Fault::on(Target::Blob).path_containing("second").with(Action::Hold(Stage::Body(9_000)));
        let held = registry.fault(held);
        let mut command = bench.command(["pull", "--serial", &first, &second]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        assert!(held.wait_fired(1, SOON));
        send(&child, signal);
        let output = child.wait_with_output().unwrap();
        let (stdout, stderr) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(output.status.signal(), Some(signal.as_raw()), "{stderr}");
        assert!(stderr.contains("cancelled: 1 of 2 images"), "{stderr}");
        assert!(stdout.contains(&first) && !stdout.contains(&second), "{stdout}");

        let listed = bench.run(["images", "--json"]).exits(0).json();
        assert_eq!(listed.len(), 1, "{listed:?}");
        bench.run(["verify"]).exits(0);
        held.remove();
        held.release();
        bench.run(["pull", &first, &second]).exits(0);
        bench.run(["verify"]).exits(0);
        assert_eq!(bench.run(["images", "--json"]).exits(0).json().len(), 2);
    }
}

#[test]
fn ctrl_c_leaves_nothing_of_a_demo() {
    let bench = Bench::new();
    let mut command = bench.command(["demo"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The first line on standard error is told from the middle of the first pull.
    let mut first = [0];
    std::io::Read::read_exact(child.stderr.as_mut().unwrap(), &mut first).unwrap();
    send(&child, Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(Signal::INT.as_raw()));
    assert_eq!(std::fs::read_dir(bench.path("tmp")).unwrap().count(), 0);
}

#[test]
fn ctrl_c_ends_an_import_of_a_silent_pipe() {
    let bench = Bench::new();
    let mut command = bench.command(["import", "-"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let silent = child.stdin.take();
    while !bench.path("store/index.json").exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(100));
    send(&child, Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    drop(silent);
}
