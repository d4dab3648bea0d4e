use oci_puller::testing::Registry;
use oci_puller::testing::images::ImageBuilder;

use crate::bench::{Bench, image, registry_with, short};

#[test]
fn results_go_to_stdout_and_messages_to_stderr() {
    let (bench, (registry, name)) = (Bench::new(), registry_with("team/app"));
    let ran = bench.run(["pull", &name]).exits(0);

    let rows: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(rows.len(), 2, "{ran:#?}");
    assert!(rows[0].starts_with("IMAGE "), "{ran:#?}");
    assert!(rows[1].starts_with(&name), "{ran:#?}");
    assert!(rows[1].contains(short(image("team/app").config_digest().as_str())), "{ran:#?}");

    for words in ["team/app:1.0: done in", "1 of 1 images in", &registry.host()] {
        assert!(ran.stderr.contains(words), "{ran:#?}");
    }
    assert!(!ran.stderr.contains('\x1b'), "no terminal, no bars: {ran:#?}");
}

#[test]
fn a_rate_limit_bounds_the_bytes_of_a_second() {
    let (bench, registry) = (Bench::new(), Registry::start().unwrap());
    let name = registry.push(&ImageBuilder::new("app").layer(1_000_000).build(), "1");
    let line = bench.run(["pull", "--json", "--limit-rate", "400k", &name]).exits(0).json().remove(0);
    assert!(line["pull_seconds"].as_f64() > Some(1.5), "{line}");
    assert!(
        bench.run(["pull", "--limit-rate", "10", &name]).exits(1).errors()[0].contains("1024"),
        "too slow"
    );
}

#[test]
fn json_tells_of_each_image_what_help_says() {
    let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
    let missing = format!("{}/missing:1", registry.host());
    let ran = bench.run(["pull", "--json", "--serial", &name, &missing]).exits(1);
    let [came, failed] = &ran.json()[..] else { panic!("{ran:#?}") };

    let image = image("app");
    let size = image.variants()[0].size();
    assert_eq!(came["image"], name.as_str());
    assert_eq!(came["ok"], true);
    assert_eq!(came["image_ref"], image.config_digest().as_str());
    assert_eq!(came["manifest_digest"], image.digest().as_str());
    assert_eq!(came["repo_digest"], format!("{}/app@{}", registry.host(), image.digest()));
    assert_eq!([&came["size"], &came["bytes_fetched"]], [size, size]);
    assert_eq!(came["bytes_reused"], 0);
    assert!(came["pull_seconds"].as_f64() > Some(0.0) && came["wait_seconds"].is_f64());
    assert!(came.get("error").is_none());

    assert_eq!(failed["image"], missing.as_str());
    assert_eq!(failed["ok"], false);
    assert!(failed.get("image_ref").is_none());
    let error = &failed["error"];
    assert_eq!(error["kind"], "NotFound");
    assert_eq!(error["host"], registry.host());
    assert_eq!(error["phase"], "manifest");
    assert_eq!(error["retryable"], false);
    assert_eq!(error["attempts"][0]["host"], registry.host());
    assert!(error["message"].as_str().unwrap().contains(&missing));

    let help = bench.run(["pull", "--help"]).exits(0).stdout;
    for field in [came, failed, error].into_iter().flat_map(|object| object.as_object().unwrap().keys()) {
        assert!(help.contains(field.as_str()), "--help does not tell of {field}");
    }
}

#[test]
fn what_is_there_is_not_fetched_again() {
    let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
    bench.run(["pull", &name]).exits(0);
    let fetched = registry.stats().blob_bytes;
    let again = bench.run(["pull", "--json", &name]).exits(0).json();
    assert_eq!(registry.stats().blob_bytes, fetched);
    assert!(again[0]["bytes_reused"].as_u64() > Some(50_000));
}

#[test]
fn more_images_than_the_serial_queue_takes_come_in_the_order_given() {
    let (bench, registry) = (Bench::new(), Registry::start().unwrap());
    let names: Vec<_> = (0..15).map(|n| registry.push(&image(&format!("app{n}")), "1")).collect();
    let args = ["pull", "--json", "--serial"].map(str::to_owned);
    let ran = bench.run(args.iter().chain(&names)).exits(0);
    let came: Vec<_> = ran.json().iter().map(|line| line["image"].as_str().unwrap().to_owned()).collect();
    assert_eq!(came, names);
}

#[test]
fn the_table_has_the_order_given_however_they_came() {
    let (bench, registry) = (Bench::new(), Registry::start().unwrap());
    let names: Vec<_> = (0..9).map(|n| registry.push(&image(&format!("app{n}")), "1")).collect();
    let args = ["pull", "--parallel", "9"].map(str::to_owned);
    let ran = bench.run(args.iter().chain(&names)).exits(0);
    let rows: Vec<_> = ran.stdout.lines().skip(1).map(|row| row.split(' ').next().unwrap()).collect();
    assert_eq!(rows, names);
}

#[test]
fn the_platform_is_chosen() {
    let (bench, registry) = (Bench::new(), Registry::start().unwrap());
    let image = ImageBuilder::new("app").layer(100).platforms(["linux/amd64", "linux/arm64"]).build();
    let name = registry.push(&image, "1");
    for platform in ["linux/arm64", "linux/amd64"] {
        let line = &bench.run(["pull", "--json", "--platform", platform, &name]).exits(0).json()[0];
        assert_eq!(line["image_ref"], image.variant(platform).unwrap().config.digest.as_str());
    }
    let ran = bench.run(["pull", "--platform=linux/s390x", &name]).exits(1);
    assert!(ran.errors()[0].contains("linux/arm64"), "it says which there are: {ran:#?}");
}

#[test]
fn the_store_is_where_it_is_said_to_be_or_where_users_have_their_data() {
    let (bench, (_registry, name)) = (Bench::new(), registry_with("app"));
    let data = bench.path("data");
    let plain = || {
        let mut command = bench.command(["pull", &name]);
        command.env_remove("OCI_PULLER_STORE");
        command
    };
    for (mut command, store) in [
        (bench.command(["pull", &name, "--store", bench.path("said").to_str().unwrap()]), bench.path("said")),
        (bench.command(["pull", &name]), bench.path("store")),
        (plain(), bench.path("home/.local/share/oci-puller")),
        (
            {
                let mut command = plain();
                command.env("XDG_DATA_HOME", &data);
                command
            },
            data.join("oci-puller"),
        ),
    ] {
        assert!(!store.exists());
        crate::bench::Ran::of(&mut command).exits(0);
        assert!(store.join("oci-layout").is_file(), "{}", store.display());
    }
}
