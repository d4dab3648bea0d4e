use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

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
fn ctrl_c_ends_a_command_that_waits_for_a_lock_of_another_process() {
    let (bench, (_registry, name)) = (Bench::new(), registry_with("app"));
    bench.run(["pull", &name]).exits(0);
    let archive = bench.path("app.tar").to_str().unwrap().to_owned();
    bench.run(["export", "-o", &archive, &name]).exits(0);
    for (lock, args) in [
        ("index.lock", ["rm", &name]),
        ("collect.lock", ["rm", &name]),
        ("index.lock", ["import", &archive]),
        ("collect.lock", ["import", &archive]),
    ] {
        bench.run(["pull", &name]).exits(0);
        let held = std::fs::File::open(bench.path("store/.oci-puller").join(lock)).unwrap();
        held.lock().unwrap();
        let mut command = bench.command(args);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // It waits for the lock by then, and would for 60 s.
        thread::sleep(Duration::from_millis(500));
        assert!(child.try_wait().unwrap().is_none(), "{args:?} waits for {lock}");
        let interrupted = Instant::now();
        send(&child, Signal::INT);
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::INT.as_raw()), "{args:?}");
        assert!(interrupted.elapsed() < SOON, "{lock}, {args:?}: {:?}", interrupted.elapsed());
        drop(held);
    }
    bench.run(["verify"]).exits(0);
}

/// The header of an entry that says to be this long, more than any disk has.
fn endless_global_header() -> [u8; 512] {
    let mut header = [0; 512];
    header[..6].copy_from_slice(b"global");
    header[124..132].copy_from_slice(&[0x80, 0, 0, 0, 0x40, 0, 0, 0]);
    header[148..156].fill(b' ');
    header[156] = b'g';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[test]
fn ctrl_c_ends_an_import_without_end_and_one_of_a_silent_pipe() {
    for is_silent in [true, false] {
        let bench = Bench::new();
        let mut command = bench.command(["import", "-"]);
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut archive = child.stdin.take().unwrap();
        archive.write_all(&endless_global_header()).unwrap();
        // More than a pipe holds: the import is reading by then.
        archive.write_all(&vec![0; 2 << 20]).unwrap();
        let writer = thread::spawn(move || {
            while !is_silent && archive.write_all(&[0; 4096]).is_ok() {}
            archive
        });
        let interrupted = Instant::now();
        send(&child, Signal::INT);
        let output = child.wait_with_output().unwrap();
        assert!(interrupted.elapsed() < SOON, "{:?}", interrupted.elapsed());
        assert_eq!(output.status.signal(), Some(Signal::INT.as_raw()), "{output:?}");
        drop(writer.join().unwrap());
        bench.run(["verify"]).exits(0);
    }
}
