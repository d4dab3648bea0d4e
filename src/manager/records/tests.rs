//! Records across restarts, damage and power cuts.

use super::*;
use crate::durable::sim::{SimDisk, Unflushed};
use crate::service::PullSecret;

fn image() -> Reference {
    Reference::parse(TYPED).unwrap()
}

const TYPED: &str = "r.io/team/app:v1";

fn image_ref() -> ImageRef {
    ImageRef::new("sha256:1234")
}

fn marks(contents: &[&str]) -> Vec<SecretMark> {
    contents.iter().map(|text| SecretMark::of(&PullSecret::docker_config_json(*text))).collect()
}

fn on(disk: &SimDisk) -> Records {
    Records::on(Box::new(disk.clone())).unwrap()
}

fn pull(records: &Records, secrets: &[&str]) -> io::Result<()> {
    let begun = records.begin(TYPED)?;
    records.succeeded(begun, &image_ref(), &image(), marks(secrets))
}

fn may(records: &Records, secrets: &[&str]) -> bool {
    records.may_use(&image_ref(), &image(), &marks(secrets))
}

#[test]
fn who_pulled_may_use_and_others_may_not() {
    let disk = SimDisk::new();
    pull(&on(&disk), &["a"]).unwrap();
    for records in [on(&disk), on(&disk.after_power_cut(Unflushed::Lost))] {
        assert!(records.was_pulled(&image_ref(), TYPED));
        assert!(may(&records, &["a"]));
        assert!(may(&records, &["b", "a"]));
        assert!(!may(&records, &["b"]));
        assert!(!may(&records, &[]));
        assert!(!records.may_use(&image_ref(), &Reference::parse("r.io/other").unwrap(), &marks(&["a"])));
        assert!(records.may_use(
            &image_ref(),
            &Reference::parse("r.io/team/app:v2").unwrap(),
            &marks(&["a"])
        ));
        assert!(!records.may_use(&ImageRef::new("sha256:5678"), &image(), &marks(&["a"])));
    }
}

#[test]
fn of_several_secrets_nobody_knows_which_one_worked() {
    let records = on(&SimDisk::new());
    pull(&records, &["a", "b"]).unwrap();
    assert!(may(&records, &["a", "b", "c"]));
    assert!(!may(&records, &["a"]));
    assert!(!may(&records, &["b"]));
}

#[test]
fn a_pull_without_secrets_is_good_for_all() {
    let records = on(&SimDisk::new());
    pull(&records, &[]).unwrap();
    assert!(may(&records, &[]));
    assert!(may(&records, &["any"]));
}

#[test]
fn a_pull_that_failed_leaves_nothing() {
    let disk = SimDisk::new();
    let records = on(&disk);
    let begun = records.begin(TYPED).unwrap();
    assert!(records.was_pulled(&image_ref(), TYPED), "who can tell, while it runs");
    records.failed(begun);
    for records in [records, on(&disk.after_kill())] {
        assert!(!records.was_pulled(&image_ref(), TYPED));
        assert!(records.left_over().is_empty());
    }
}

#[test]
fn a_pull_that_never_ended_is_known_and_may_be_adopted() {
    let disk = SimDisk::new();
    let _cut_short = on(&disk).begin(TYPED).unwrap();
    let records = on(&disk);
    assert!(records.was_pulled(&image_ref(), TYPED));
    for (image, begun) in records.left_over() {
        assert_eq!(image, TYPED);
        records.adopt(begun, &image_ref(), &Reference::parse(&image).unwrap()).unwrap();
    }
    let records = on(&disk.after_kill());
    assert!(records.left_over().is_empty());
    assert!(records.was_pulled(&image_ref(), "r.io/team/app:other-name"));
    assert!(!may(&records, &[]) && !may(&records, &["a"]));
    pull(&records, &["a"]).unwrap();
    assert!(may(&records, &["a"]));
}

#[test]
fn the_folder_belongs_to_one_manager_at_a_time() {
    let disk = SimDisk::new();
    let first = on(&disk);
    assert!(Records::on(Box::new(disk.clone())).is_err());
    drop(first);
    on(&disk);
}

#[test]
fn a_pull_that_succeeds_clears_what_was_left_over_of_its_image() {
    let disk = SimDisk::new();
    let _cut_short = on(&disk).begin(TYPED).unwrap();
    let records = on(&disk);
    pull(&records, &["a"]).unwrap();
    assert!(records.left_over().is_empty());
    assert!(on(&disk.after_kill()).left_over().is_empty());
}

#[test]
fn what_cannot_be_read_says_only_that_the_image_was_pulled() {
    let disk = SimDisk::new();
    pull(&on(&disk), &[]).unwrap();
    for damage in ["", "{", "[]", r#"{"imageRef":"sha256:1234"}"#, "\0\0\0\0"] {
        for name in disk.read_dir(PULLED).unwrap() {
            let file = disk.open(&format!("{PULLED}/{name}"), OpenMode::Update).unwrap();
            file.set_len(0).unwrap();
            file.write_at(damage.as_bytes(), 0).unwrap();
        }
        let records = on(&disk);
        assert!(records.was_pulled(&image_ref(), TYPED), "{damage:?}");
        assert!(!may(&records, &[]), "{damage:?}");
    }
}

#[test]
fn a_renewed_secret_takes_the_place_of_the_old_one() {
    let secret = |content: &str| {
        let mut secret = PullSecret::docker_config_json(content);
        secret.namespace = "default".to_owned();
        secret.name = "regcred".to_owned();
        secret.uid = "u1".to_owned();
        vec![SecretMark::of(&secret)]
    };
    let disk = SimDisk::new();
    let records = on(&disk);
    for content in ["old", "new", "new"] {
        let begun = records.begin(TYPED).unwrap();
        records.succeeded(begun, &image_ref(), &image(), secret(content)).unwrap();
    }
    for records in [records, on(&disk.after_kill())] {
        assert!(may(&records, &["new"]));
        assert!(!may(&records, &["old"]));
    }
    assert_eq!(disk.read_dir(PULLED).unwrap().len(), 1);
}

#[test]
fn records_are_bounded_and_pruned() {
    let disk = SimDisk::new();
    let records = on(&disk);
    for n in 0..150 {
        pull(&records, &[&n.to_string()]).unwrap();
    }
    assert_eq!(disk.read_dir(PULLED).unwrap().len(), 100);
    assert!(!may(&records, &["0"]) && may(&records, &["149"]));

    let mark = records.mark();
    assert_eq!(records.prune(&HashSet::from([image_ref()]), mark), 0);
    pull(&records, &["new"]).unwrap();
    assert_eq!(records.prune(&HashSet::new(), mark), 0, "what came meanwhile is kept");
    assert_eq!(records.prune(&HashSet::new(), records.mark()), 100);
    assert!(disk.read_dir(PULLED).unwrap().is_empty());
}

/// Two pulls with different credentials, then one that fails.
fn work(records: &Records) -> io::Result<()> {
    let begun = records.begin(TYPED)?;
    records.succeeded(begun, &image_ref(), &image(), marks(&["a"]))?;
    let begun = records.begin(TYPED)?;
    records.succeeded(begun, &image_ref(), &image(), marks(&["b"]))?;
    records.failed(records.begin(TYPED)?);
    Ok(())
}

#[test]
fn a_cut_at_any_operation_allows_nobody_who_has_not_pulled() {
    let whole = SimDisk::new();
    work(&on(&whole)).unwrap();
    let ways = [Unflushed::Lost, Unflushed::OnlyNames, Unflushed::OnlyContents, Unflushed::Kept];
    let chances = (0..8).map(Unflushed::Chance);
    for unflushed in ways.into_iter().chain(chances) {
        for step in 0..whole.steps() {
            let disk = SimDisk::new().cut_at(step);
            let mut begun = false;
            let mut first_succeeded = false;
            if let Ok(records) = Records::on(Box::new(disk.clone()))
                && let Ok(first) = records.begin(TYPED)
            {
                begun = true;
                first_succeeded = records.succeeded(first, &image_ref(), &image(), marks(&["a"])).is_ok();
                if let Ok(second) = records.begin(TYPED) {
                    let _ = records.succeeded(second, &image_ref(), &image(), marks(&["b"]));
                }
            }
            let found = on(&disk.after_power_cut(unflushed));
            assert!(!may(&found, &[]) && !may(&found, &["c"]), "{unflushed:?} at {step}");
            if begun {
                assert!(found.was_pulled(&image_ref(), TYPED), "{unflushed:?} at {step}");
            }
            if first_succeeded {
                assert!(may(&found, &["a"]), "{unflushed:?} at {step}");
            }
            pull(&found, &["d"]).unwrap();
            assert!(may(&found, &["d"]), "{unflushed:?} at {step}: it goes on");
        }
    }
}

#[test]
fn a_disk_that_fails_at_any_operation_is_an_error_and_allows_nobody() {
    let whole = SimDisk::new();
    work(&on(&whole)).unwrap();
    for step in 0..whole.steps() {
        let disk = SimDisk::new().fail_at(step, rustix::io::Errno::NOSPC);
        let Ok(records) = Records::on(Box::new(disk)) else { continue };
        let _ = work(&records);
        assert!(!may(&records, &[]) && !may(&records, &["c"]), "at {step}");
    }
}
