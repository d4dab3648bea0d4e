use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::bench::{Bench, image, registry_with, short};

#[test]
fn images_are_listed_with_all_their_names() {
    let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
    let other = registry.push(&image("app"), "other");
    bench.run(["pull", "--serial", &name, &other]).exits(0);
    let id = image("app").config_digest().to_string();

    let table = bench.run(["images"]).exits(0).stdout;
    let rows: Vec<_> = table.lines().skip(1).collect();
    assert_eq!(rows.len(), 2, "{table}");
    for name in [&name, &other] {
        assert!(rows.iter().any(|row| row.starts_with(name.as_str()) && row.contains(short(&id))), "{table}");
    }

    let lines = bench.run(["images", "--json"]).exits(0).json();
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(line["image_ref"], id);
    assert_eq!(line["names"], json!([name, other]));
    assert_eq!(line["manifest_digest"], image("app").digest().as_str());
    assert_eq!(line["pinned"], false);
    let layers: Vec<_> = image("app").layers().iter().map(|layer| layer.digest.to_string()).collect();
    let listed: Vec<_> =
        line["layers"].as_array().unwrap().iter().map(|layer| layer["digest"].clone()).collect();
    assert_eq!(listed, layers);
    assert!(line.get("created").is_some() && table.contains(" CREATED "), "{line}");
    let help = bench.run(["images", "--help"]).stdout;
    assert!(line.as_object().unwrap().keys().all(|field| help.contains(field.as_str())));
}

#[test]
fn who_only_looks_makes_no_store() {
    let bench = Bench::new();
    for is_empty_folder in [false, true] {
        if is_empty_folder {
            fs::create_dir(bench.path("store")).unwrap();
        }
        for (command, status) in [("images", 0), ("verify", 1), ("prune", 0)] {
            let ran = bench.run([command]).exits(status);
            assert_eq!(ran.stdout, "");
            assert!(ran.stderr.contains("no store at"), "{ran:#?}");
        }
        bench.run(["rm", "app"]).exits(1);
        assert!(!bench.path("store/oci-layout").exists());
        // Programs get their object in any case.
        let verified = bench.run(["verify", "--json"]).exits(1).json();
        assert_eq!(verified[0]["sound"], 0);
        let pruned = bench.run(["prune", "--json"]).exits(0).json();
        assert_eq!(pruned[0]["blobs"], 0);
    }
}

#[test]
fn a_folder_that_is_no_store_is_refused_and_left_alone() {
    let bench = Bench::new();
    bench.file("store/letter.txt", "Dear reader");
    for command in [&["images"][..], &["verify"], &["prune"], &["rm", "app"], &["pull", "app"]] {
        let ran = bench.run(command).exits(1);
        assert!(ran.errors()[0].contains("no image layout"), "{ran:#?}");
    }
    assert_eq!(fs::read_dir(bench.path("store")).unwrap().count(), 1);
}

#[test]
fn an_image_is_removed_by_name_digest_or_first_digits() {
    let (bench, (_registry, name)) = (Bench::new(), registry_with("app"));
    let (id, manifest) = (image("app").config_digest().to_string(), image("app").digest().to_string());
    for meant in [name.as_str(), &id, &manifest, short(&id), &id[..19]] {
        bench.run(["pull", &name]).exits(0);
        let ran = bench.run(["rm", meant]).exits(0);
        assert_eq!(ran.stdout, format!("{name}\n"), "{meant}");
        assert_eq!(bench.run(["images", "--json"]).exits(0).stdout, "", "{meant}");
    }
}

#[test]
fn a_removal_tells_programs_what_it_freed() {
    let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
    let other = registry.push(&image("other"), "1");
    bench.run(["pull", &name, &other]).exits(0);
    let line = &bench.run(["rm", "--json", &name]).exits(0).json()[0];
    assert_eq!(line["image"], name.as_str());
    assert_eq!(line["names"], json!([name]));
    // Manifest, config and its own layer; the other layer is the other image's, too.
    assert_eq!(line["blobs"], 3);
    assert!((20_000..60_000).contains(&line["bytes"].as_u64().unwrap()), "{line}");
    bench.run(["verify"]).exits(0);
}

#[test]
fn what_is_not_there_cannot_be_removed_and_the_rest_is() {
    let (bench, (_registry, name)) = (Bench::new(), registry_with("app"));
    bench.run(["pull", &name]).exits(0);
    let ran = bench.run(["rm", "no/such:1", "abcdef123456", "Bad Name", &name]).exits(1);
    assert_eq!(ran.errors().len(), 3, "{ran:#?}");
    assert!(ran.errors()[0].starts_with("error: no/such:1: not found"), "{ran:#?}");
    assert_eq!(ran.stdout, format!("{name}\n"));
}

#[test]
fn what_was_not_used_for_long_is_pruned() {
    let (bench, (_registry, name)) = (Bench::new(), registry_with("app"));
    bench.run(["pull", &name]).exits(0);
    // However full the disk is that the test runs on, it makes no room.
    let common = ["prune", "--json", "--above", "100", "--below", "100"];
    let prune = |args: &[&str]| bench.run(common.iter().chain(args)).exits(0).json().remove(0);

    assert_eq!(prune(&[])["names"], json!([]));
    assert_eq!(prune(&["--unused-for", "1h", "--min-age", "1ms"])["names"], json!([]));
    let pruned = prune(&["--unused-for", "1ms", "--min-age", "1ms"]);
    assert_eq!(pruned["names"], json!([name]));
    assert_eq!(pruned["blobs"], 4);
    assert_eq!(bench.run(["images", "--json"]).exits(0).stdout, "");
}

#[test]
fn a_damaged_blob_is_found_and_fetched_again() {
    let (bench, (_registry, name)) = (Bench::new(), registry_with("app"));
    bench.run(["pull", &name]).exits(0);
    let sound = bench.run(["verify", "--json"]).exits(0).json().remove(0);
    assert_eq!([&sound["sound"], &sound["damaged"]], [&json!(4), &json!([])]);

    let layer = image("app").layers()[0].digest.clone();
    let path = bench.path("store/blobs/sha256").join(layer.hex());
    let mut bytes = fs::read(&path).unwrap();
    bytes[1000] ^= 1;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, bytes).unwrap();

    let report = bench.run(["verify", "--json"]).exits(1).json().remove(0);
    assert_eq!(report["sound"], 3);
    assert_eq!(report["damaged"], json!([layer.as_str()]));
    let lacking = json!([{ "manifest_digest": image("app").digest().as_str(), "lacking": [layer.as_str()] }]);
    assert_eq!(report["incomplete"], lacking);
    let ran = bench.run(["verify"]).exits(1);
    assert!(ran.stdout.contains(&format!("lacks {layer}")) && ran.errors()[0].contains("pull"), "{ran:#?}");

    bench.run(["pull", &name]).exits(0);
    bench.run(["verify"]).exits(0);
}

#[test]
fn what_is_pinned_is_not_pruned_until_it_is_unpinned() {
    let (bench, (_registry, name)) = (Bench::new(), registry_with("app"));
    bench.run(["pull", &name]).exits(0);
    let prune = ["prune", "--above", "100", "--below", "100", "--unused-for", "1ms", "--min-age", "1ms"];
    assert_eq!(bench.run(["pin", &name]).exits(0).stdout, format!("{name}\n"));
    assert_eq!(bench.run(["images", "--json"]).exits(0).json()[0]["pinned"], true);
    assert_eq!(bench.run(prune).exits(0).stdout, "");
    assert_eq!(bench.run(["images", "--json"]).exits(0).json().len(), 1);
    let id = image("app").config_digest().to_string();
    let line = bench.run(["unpin", "--json", short(&id)]).exits(0).json().remove(0);
    assert_eq!(line, json!({ "image": short(&id), "pinned": false }));
    bench.run(prune).exits(0);
    assert_eq!(bench.run(["images", "--json"]).exits(0).stdout, "");
    let ran = bench.run(["pin", &name, "other"]).exits(1);
    assert_eq!(ran.errors().len(), 2, "{ran:#?}");
}

#[test]
fn an_image_is_inspected_as_an_object_or_as_its_own_bytes() {
    let (bench, (_registry, name)) = (Bench::new(), registry_with("app"));
    bench.run(["pull", &name]).exits(0);
    let line = bench.run(["inspect", "--json", &name]).exits(0).json().remove(0);
    let image = image("app");
    assert_eq!(line["image_ref"], image.config_digest().as_str());
    assert_eq!(line["manifest_digest"], image.digest().as_str());
    assert_eq!(line["layers"][1]["digest"], image.layers()[1].digest.as_str());
    assert!(line["config"]["rootfs"].is_object(), "{line}");
    let help = bench.run(["inspect", "--help"]).stdout;
    assert!(line.as_object().unwrap().keys().all(|field| help.contains(field.as_str())), "{help}");
    let pretty = bench.run(["inspect", &name]).exits(0).stdout;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&pretty).unwrap(), line);
    for (args, digest) in [(&["--raw"][..], image.digest()), (&["--raw", "--config"], image.config_digest())]
    {
        let raw = bench.run(["inspect", &name].iter().chain(args)).exits(0).stdout;
        assert_eq!(oci_puller::image::Digest::sha256(raw.as_bytes()), *digest);
    }
    assert_eq!(bench.run(["inspect", "--json", "--config", &name]).exits(0).json()[0], line["config"]);
    assert!(bench.run(["inspect", "other"]).exits(1).errors()[0].contains("not found"));
}
