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
mod random;
mod streams;
mod targets;
mod tree;

use std::path::PathBuf;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// A test: its name, what it needs, and what it does.
type Test = (&'static str, &'static [&'static str], fn());

/// Needs of a test beside tools.
const ROOT: &str = "root";

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
        corpus::an_error_names_layer_entry_and_cause_and_is_not_to_be_retried,
        streams::compression_goes_by_the_first_bytes,
        streams::streams_that_are_broken_are_refused,
        streams::a_tar_may_end_at_the_end_of_an_entry,
        streams::a_large_window_is_for_those_that_ask_for_it,
        streams::layers_are_compared_with_the_config,
        streams::what_is_no_tar_by_its_type_is_refused,
        targets::a_folder_must_be_absent_empty_or_unfinished,
        targets::what_fails_stays_closed_and_marked_and_is_begun_anew,
        targets::a_folder_is_unpacked_into_by_one_at_a_time,
        targets::limits_end_a_bomb_of_any_kind,
        targets::a_cancel_and_a_deadline_end_it,
        targets::progress_tells_every_byte_of_the_blobs_and_every_layer,
        targets::what_the_disk_does_not_take_is_counted,
        targets::full_durability_makes_the_same_tree,
        archive::a_tar_is_sorted_and_the_same_each_time,
        faults::what_another_thread_swaps_leads_nowhere,
        overlay::layers_are_used_again_and_pruned_when_no_image_has_them,
        overlay::settings_of_a_store_hold_for_all_its_layers,
        overlay::a_damaged_layer_is_found,
        overlay::many_layers_have_no_option,
    ));
    tests.extend(tests!(
        [ROOT],
        corpus::every_case_becomes_the_tree_that_it_should_in_a_folder,
        corpus::one_thread_makes_the_same_trees,
        targets::owners_are_those_of_the_setting,
    ));
    tests.extend(tests!(
        [ROOT, "mount", "umount"],
        overlay::every_case_becomes_the_tree_that_it_should_when_mounted,
        overlay::layers_that_are_there_make_the_same_trees,
    ));
    tests.extend(tests!([ROOT, "tar"], archive::every_case_becomes_the_tree_that_it_should_through_a_tar,));
    tests.extend(tests!([ROOT, "mount", "umount", "tar"], random::every_way_makes_the_tree_of_the_model,));
    tests.extend(tests!(
        [ROOT, "strace"],
        faults::without_openat2_the_trees_are_the_same,
        faults::what_the_kernel_forbids_is_left_out_and_counted,
        faults::a_process_may_be_killed_and_a_call_may_fail_anywhere,
    ));
    tests.extend(tests!([ROOT, "umoci"], peers::umoci_unpacks_the_same_tree_and_repacks_it));
    tests.extend(tests!([ROOT, "podman"], peers::podman_mounts_the_same_tree));
    let trials = tests.into_iter().map(|(name, needs, test)| trial(name, needs, test)).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial(name: &str, needs: &'static [&'static str], test: fn()) -> Trial {
    let missing: Vec<_> = needs.iter().filter(|need| !is_there(need)).collect();
    let cannot_run = !missing.is_empty();
    let lacks = format!("it needs {missing:?}");
    Trial::test(name, move || {
        if cannot_run {
            return Err(lacks.into());
        }
        test();
        Ok(())
    })
    .with_ignored_flag(cannot_run && std::env::var_os("OCI_PULLER_REQUIRE_REAL").is_none())
}

fn is_there(need: &str) -> bool {
    if need == ROOT {
        return rustix::process::geteuid().is_root();
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&paths).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    folders.into_iter().any(|folder| folder.join(need).is_file())
}
