//! The store against the real thing: other tools, killed processes, failing system calls, full disks,
//! and power cuts.
//!
//! What a machine has not (a tool, root) shows as ignored, unless `OCI_PULLER_REQUIRE_REAL` is set:
//! then it fails, and what runs for a time runs longer.

#![allow(clippy::unwrap_used)]

#[path = "../archives/mod.rs"]
mod archives;
mod calls;
mod disks;
mod processes;
mod tools;
mod users;
mod worker;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use archives::{Image, image};
use libtest_mimic::{Arguments, Failed, Trial};
use oci_puller::{PullContext, Store};

/// Stands among the tools that a test needs for the right to work as another user.
const ROOT: &str = "root";

type Outcome = Result<(), Failed>;

fn main() -> ExitCode {
    if let Ok(work) = std::env::var(worker::WORK) {
        return worker::run(&work);
    }
    let trials = vec![
        trial("skopeo_and_umoci_read_what_is_pulled", &["skopeo", "umoci"], tools::other_tools_read),
        trial(
            "stores_of_skopeo_and_umoci_are_opened_and_pulled_into",
            &["skopeo", "umoci"],
            tools::stores_of_others,
        ),
        trial("skopeo_accepts_an_export_and_its_archives_come_in", &["skopeo"], tools::archives_of_skopeo),
        trial("archives_of_podman_come_in_and_ours_go_to_it", &["podman"], tools::archives_of_podman),
        trial("archives_of_buildah_come_in", &["buildah"], tools::archives_of_buildah),
        trial("a_process_may_be_killed_at_every_system_call", &["strace"], calls::killed_at_every_call),
        trial("every_system_call_may_fail", &["strace"], calls::every_call_fails),
        trial("open_files_that_run_out_are_waited_for", &["prlimit"], calls::few_open_files),
        trial("a_user_that_may_only_read_lists_exports_and_verifies", &[ROOT], users::a_reader_reads),
        trial("a_user_that_may_only_read_stops_nothing", &[ROOT], users::a_reader_stops_nothing),
        trial("a_full_disk_is_told_and_left_usable", &["mount", "umount"], disks::full_disk),
        trial(
            "images_are_removed_from_disks_without_room_for_a_byte_or_a_file",
            &["mkfs.ext4", "mount", "umount"],
            disks::removal_on_full_disks,
        ),
        trial("a_read_only_folder_is_read_and_not_written", &["mount", "umount"], disks::read_only),
        trial(
            "power_cuts_lose_nothing_that_was_answered",
            &["mkfs.ext4", "mount", "umount", "perl"],
            disks::power_cuts,
        ),
        trial("processes_share_a_store_while_some_are_killed", &["skopeo"], processes::many_processes),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A test that needs these tools; mounting and working as another user need root.
fn trial(name: &str, tools: &'static [&'static str], test: fn(&Path) -> Outcome) -> Trial {
    let lacking: Vec<_> = tools.iter().filter(|tool| **tool != ROOT && !is_installed(tool)).collect();
    let lacks_root = tools.iter().any(|tool| ["mount", ROOT].contains(tool)) && !is_root();
    let cannot_run = !lacking.is_empty() || lacks_root;
    let lacks = format!("it needs {lacking:?}, and root: {lacks_root}");
    let must_run = is_thorough();
    Trial::test(name, move || {
        if cannot_run {
            return Err(lacks.into());
        }
        let dir = tempfile::tempdir()?;
        test(dir.path())
    })
    .with_ignored_flag(cannot_run && !must_run)
}

fn is_thorough() -> bool {
    std::env::var_os("OCI_PULLER_REQUIRE_REAL").is_some()
}

fn is_installed(tool: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .any(|dir| dir.join(tool).is_file())
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|this| this.uid() == 0)
}

fn run(command: &mut Command) -> Result<Output, Failed> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

fn tool(line: &str) -> Command {
    let mut parts = line.split(' ');
    let mut command = Command::new(parts.next().unwrap());
    command.args(parts);
    command
}

fn cx() -> PullContext {
    PullContext::new()
}

fn images() -> Vec<Image> {
    vec![
        image("docker.io/library/one:latest", &[b"a layer that is shared", b"only one"]),
        image("localhost:5000/two:v1", &[b"a layer that is shared", &[2; 5000]]),
    ]
}

/// Whether the image is there by its name, and every blob reads as it was.
fn check(store: &Store, image: &Image) -> Result<(), String> {
    let found = store.find(&image.name).map_err(|error| error.to_string())?;
    let found = found.ok_or_else(|| format!("{} is gone", image.name))?;
    if found.manifest.digest != image.manifest || found.id != image.id {
        return Err(format!("{} is another image", image.name));
    }
    for (digest, bytes) in &image.layers {
        let mut content = Vec::new();
        let blob = store.open_blob(digest).map_err(|error| format!("{}: {error}", image.name))?;
        { blob }.read_to_end(&mut content).map_err(|error| error.to_string())?;
        if content != *bytes {
            return Err(format!("{} of {} is not what it was", digest, image.name));
        }
    }
    Ok(())
}

fn check_all(dir: &Path, images: &[Image]) -> Outcome {
    let store = Store::open(dir)?;
    images.iter().try_for_each(|image| check(&store, image))?;
    let report = store.verify(&cx())?;
    if report.is_sound() { Ok(()) } else { Err(format!("{report:?}").into()) }
}

/// Writes the images' archives beside the store.
fn write_archives(dir: &Path, images: &[Image]) -> Result<Vec<String>, Failed> {
    let mut paths = Vec::new();
    for (at, image) in images.iter().enumerate() {
        let path = dir.join(format!("archive-{at}.tar"));
        fs::write(&path, &image.archive)?;
        paths.push(path.display().to_string());
    }
    Ok(paths)
}
