//! Unpacking: what each kind of image becomes, and what is refused.
//!
//! What a machine has not (root, a tool) shows as ignored, unless `OCI_PULLER_REQUIRE_REAL` is set: then it
//! fails.

#![allow(clippy::unwrap_used)]

mod archive;
mod cases;
mod corpus;
mod faults;
mod layers;
mod model;
mod overlay;
mod peers;
mod power;
mod random;
mod streams;
mod tarfile;
mod targets;
mod tree;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Trial};

/// A test: its name, what it needs, and what it does.
type Test = (&'static str, &'static [&'static str], fn());

/// Needs of a test beside tools.
const ROOT: &str = "root";
/// A user namespace, which many containers must not make: without it the test is always ignored.
const USER_NAMESPACE: &str = "a user namespace";

macro_rules! tests {
    ($needs:expr, $($module:ident::$name:ident),* $(,)?) => {
        [$((concat!(stringify!($module), "::", stringify!($name)), &$needs[..], $module::$name as fn()),)*]
    };
}

fn main() -> ExitCode {
    if let Ok(work) = std::env::var(faults::WORK) {
        return faults::work(&work);
    }
    let mut tests: Vec<Test> = Vec::new();
    tests.extend(tests!(
        [],
        corpus::an_error_names_layer_entry_and_cause_and_is_not_retryable,
        streams::compression_is_detected_from_the_first_bytes,
        streams::broken_streams_are_refused,
        streams::a_tar_may_end_at_the_end_of_an_entry,
        streams::a_large_zstd_window_needs_a_setting,
        streams::diff_ids_are_compared,
        streams::layers_whose_media_type_is_no_tar_are_refused,
        targets::a_folder_must_be_absent_empty_or_unfinished,
        targets::a_failed_target_stays_private_and_marked_and_is_cleared,
        targets::a_folder_takes_one_unpack_at_a_time,
        targets::limits_stop_bombs,
        targets::cancel_and_deadline_stop_an_unpack,
        targets::progress_counts_every_byte_and_layer,
        targets::unsupported_attributes_are_counted,
        targets::full_durability_makes_the_same_tree,
        archive::a_tar_is_sorted_and_reproducible,
        faults::swapped_parents_do_not_escape_the_root,
        overlay::layers_are_shared_and_pruned_when_unused,
        overlay::a_layer_store_keeps_its_settings,
        overlay::verify_finds_damaged_layers,
        overlay::a_long_stack_has_no_lowerdir_option,
    ));
    tests.extend(tests!(
        [ROOT],
        corpus::every_case_gives_its_tree_in_a_folder,
        corpus::every_case_gives_its_tree_with_one_thread,
        targets::owners_follow_the_setting,
    ));
    tests.extend(tests!(
        [ROOT, "mount", "umount"],
        overlay::every_case_gives_its_tree_when_mounted,
        overlay::every_case_gives_its_tree_from_known_layers,
    ));
    tests.extend(tests!([ROOT, "tar"], archive::every_case_gives_its_tree_through_a_tar,));
    tests.extend(tests!([ROOT, "mount", "umount", "tar"], random::every_output_matches_the_model,));
    tests.extend(tests!(
        [ROOT, "strace"],
        faults::without_openat2_the_trees_are_the_same,
        faults::forbidden_devices_and_attributes_are_left_out_and_counted,
        faults::a_killed_or_failed_unpack_is_marked_and_can_be_repeated,
        faults::a_layer_has_its_name_only_when_it_is_whole,
    ));
    tests.extend(tests!([ROOT, USER_NAMESPACE], faults::a_user_namespace_records_what_it_cannot_set));
    tests.extend(tests!(
        [ROOT, "mkfs.ext4", "mount", "umount", "perl"],
        power::power_cuts_leave_nothing_half_under_a_name,
    ));
    tests.extend(tests!([ROOT, "python3"], tarfile::what_both_accept_python_reads_alike));
    tests.extend(tests!([ROOT, "umoci"], peers::umoci_unpacks_the_same_tree_and_repacks_it));
    tests.extend(tests!([ROOT, "podman"], peers::podman_mounts_the_same_tree));
    let trials = tests.into_iter().map(|(name, needs, test)| trial(name, needs, test)).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial(name: &str, needs: &'static [&'static str], test: fn()) -> Trial {
    let missing: Vec<_> = needs.iter().filter(|need| !is_there(need)).collect();
    let cannot_run = !missing.is_empty();
    let lacks = format!("it needs {missing:?}");
    let is_required = std::env::var_os("OCI_PULLER_REQUIRE_REAL").is_some();
    let can_be_required = !missing.contains(&&USER_NAMESPACE);
    Trial::test(name, move || {
        if cannot_run {
            return Err(lacks.into());
        }
        test();
        Ok(())
    })
    .with_ignored_flag(cannot_run && !(is_required && can_be_required))
}

fn is_there(need: &str) -> bool {
    if need == ROOT {
        return rustix::process::geteuid().is_root();
    }
    if need == USER_NAMESPACE {
        let unshare = Command::new("unshare").args(["-Ur", "true"]).stderr(Stdio::null()).status();
        return unshare.is_ok_and(|status| status.success());
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&paths).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    folders.into_iter().any(|folder| folder.join(need).is_file())
}
