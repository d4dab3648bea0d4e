//! Pulls in a process that may open few files.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::thread;
use std::time::Duration;

use oci_puller::testing::images::ImageBuilder;
use oci_puller::testing::{Action, Fault, Registry, Stage, Target, TokenServer};

use crate::bench::{Bench, Ran};
use crate::tls::{PrivateCa, ServerCertificate};

const IMAGES: usize = 41;

/// Pushes so many images of four blobs each, and returns their references.
fn push(registry: &Registry, repository: &str, count: usize) -> Vec<String> {
    let push = |n: usize| {
        let image = ImageBuilder::new(format!("{repository}{n}")).seed(n as u64);
        registry.push(&(0..3).fold(image, |it, _| it.layer(20_000)).build(), "1")
    };
    (0..count).map(push).collect()
}

/// Returns how many descriptors the command inherits besides the standard streams: of the shell that runs the
/// tests, for example.
fn inherited() -> usize {
    const CLOSE_ON_EXEC: u32 = 0o2_000_000;
    let is_inherited = |fd: &usize| {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        flags.is_some_and(|flags| u32::from_str_radix(flags.trim(), 8).unwrap() & CLOSE_ON_EXEC == 0)
    };
    (3..20).filter(is_inherited).count()
}

/// Returns the command that pulls all images side by side, with `limit` open files at most.
fn pull(bench: &Bench, limit: usize, args: &[&str], names: &[String]) -> Command {
    let limit = limit + inherited();
    let plain = bench.command::<&str>([]);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\"")]);
    command.arg(plain.get_program()).args(["pull", "--parallel", "41"]).args(args).args(names).env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

#[test]
fn all_images_come_however_few_files_may_be_open() {
    let registry = Registry::start().unwrap();
    let names = push(&registry, "app", IMAGES);
    for limit in [20, 32] {
        let bench = Bench::new();
        let ran = Ran::of(&mut pull(&bench, limit, &[], &names)).exits(0);
        assert!(ran.stderr.contains("41 of 41 images in"), "{limit}: {ran:#?}");
        bench.run(["verify"]).exits(0);
    }
}

#[test]
fn tls_a_token_server_and_a_credential_helper_need_no_more_files() {
    let (bench, authority) = (Bench::new(), PrivateCa::new());
    let registry = Registry::builder().acceptor(authority.acceptor(ServerCertificate::Good)).start().unwrap();
    registry.require_token(&TokenServer::new().user("me", "secret"));
    let (host, ca) = (registry.host(), bench.file("ca.pem", authority.pem()));
    let helper = "#!/bin/sh\ncat >/dev/null\necho '{\"Username\":\"me\",\"Secret\":\"secret\"}'\n";
    let helper = bench.file("bin/docker-credential-own", helper);
    std::fs::set_permissions(&helper, Permissions::from_mode(0o755)).unwrap();
    bench.file("home/.docker/config.json", format!(r#"{{"credHelpers": {{"{host}": "own"}}}}"#));
    let path = format!("{}:/usr/bin:/bin", bench.path("bin").display());
    // Each repository needs a token of its own.
    let names = push(&registry, "app", 12);
    let args = ["--tls", &host, "--ca", &ca, "--retries=0"];
    let ran = Ran::of(pull(&bench, 20, &args, &names).env("PATH", path)).exits(0);
    assert!(ran.stderr.contains("12 of 12 images in"), "{ran:#?}");
}

#[test]
fn a_host_that_hangs_leaves_files_for_others() {
    let (bad, good) = (Registry::start().unwrap(), Registry::start().unwrap());
    let (bad_names, good_names) = (push(&bad, "bad", 16), push(&good, "good", 4));
    let hold = bad.fault(Fault::on(Target::Blob).with(Action::Hold(Stage::BeforeHead)));
    let bench = Bench::new();
    let names = [bad_names, good_names].concat();
    thread::scope(|scope| {
        let ran = scope.spawn(|| Ran::of(&mut pull(&bench, 64, &[], &names)));
        let has_all = good.wait_until(|stats| stats.blobs >= 16, Duration::from_secs(60));
        hold.release();
        let ran = ran.join().unwrap().exits(0);
        assert!(has_all, "{ran:#?}");
    });
}
