//! `digest`, `tags` and `inspect --remote`: what a registry has, without a pull.

use oci_puller::image::{Digest, Platform};
use oci_puller::testing::images::{Image, ImageBuilder};
use oci_puller::testing::{Action, Fault, Registry, Target};

use crate::bench::{Bench, image, registry_with};

/// Returns an image for this machine and for another platform, and the name of the other.
fn of_two_platforms() -> (Image, &'static str) {
    let host = Platform::host().to_string();
    let other = if host == "linux/s390x" { "linux/ppc64le" } else { "linux/s390x" };
    (ImageBuilder::new("app").layer(20_000).platforms([host, other.to_owned()]).build(), other)
}

#[test]
fn a_digest_is_that_of_the_index_or_of_one_platform() {
    let (bench, registry) = (Bench::new(), Registry::start().unwrap());
    let (image, other) = of_two_platforms();
    let name = registry.push(&image, "1");
    let ran = bench.run(["digest", &name]).exits(0);
    assert_eq!((ran.stdout, ran.stderr), (format!("{}\n", image.digest()), String::new()));
    let manifest = &image.variant(other).unwrap().manifest.digest;
    let ran = bench.run(["digest", "--platform", other, &name]).exits(0);
    assert_eq!(ran.stdout, format!("{manifest}\n"));
    let line = bench.run(["digest", "--json", &name]).exits(0).json().remove(0);
    assert_eq!(line["size"], image.manifest_bytes().len());
    assert!(bench.run(["digest", "--platform", "plan9/mips", &name]).exits(1).errors()[0].contains("plan9"));
    bench.run(["digest", &format!("{}/missing", registry.host())]).exits(1);
    assert!(registry.requests().iter().all(|request| request.target != Target::Blob));
    assert!(!bench.path("store").exists(), "nothing is stored");
    assert_eq!(std::fs::read_dir(bench.path("tmp")).unwrap().count(), 0);
}

#[test]
fn tags_are_read_page_by_page_in_the_order_of_the_registry() {
    let (bench, registry) = (Bench::new(), Registry::start().unwrap());
    let image = image("team/app");
    let mut tags: Vec<String> = (0..2_500).map(|number| format!("v{number}")).collect();
    for tag in &tags {
        registry.put_manifest("team/app", tag, image.media_type(), image.manifest_bytes().to_vec());
    }
    tags.sort();
    let repository = format!("{}/team/app", registry.host());
    let list = |args: &[&str]| bench.run(["tags", &repository].iter().chain(args)).exits(0);
    let lines: Vec<_> = list(&[]).stdout.lines().map(str::to_owned).collect();
    assert_eq!(lines, tags);
    assert_eq!(registry.requests().len(), 3);
    let object = &list(&["--json", "--limit", "1001"]).json()[0];
    assert_eq!((object["tags"].as_array().unwrap().len(), &object["is_complete"]), (1001, &false.into()));
    let ran = list(&["--limit", "2"]);
    assert_eq!(ran.stdout, "v0\nv1\n");
    assert!(ran.stderr.contains("more than these 2 tags"), "{ran:#?}");
    let object = &list(&["--json", "--limit=2500"]).json()[0];
    assert_eq!(object["is_complete"], true);
}

#[test]
fn a_list_of_tags_that_is_none_is_an_error() {
    for (action, code, told) in [
        (Action::Body(b"<html>".to_vec()), 1, "no list of tags"),
        (Action::Body(br#"{"name":"app","tags":["a",1]}"#.to_vec()), 1, "no list of tags"),
        (Action::Status(404), 1, "not found"),
        (Action::Status(503), 3, "unavailable"),
    ] {
        let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
        registry.fault(Fault::on(Target::Tags).with(action));
        let ran = bench.run(["tags", "--retries=0", &name]).exits(code);
        assert!(ran.errors()[0].contains(&registry.host()) && ran.errors()[0].contains(told), "{ran:#?}");
    }
    let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
    registry.fault(Fault::on(Target::Tags).with(Action::Body(br#"{"name":"app","tags":null}"#.to_vec())));
    assert_eq!(bench.run(["tags", &name]).exits(0).stdout, "");
}

#[test]
fn an_image_is_inspected_in_its_registry_as_it_would_be_in_the_store() {
    let (bench, registry) = (Bench::new(), Registry::start().unwrap());
    let (image, other) = of_two_platforms();
    let name = registry.push(&image, "1");
    let remote = bench.run(["inspect", "--remote", "--json", &name]).exits(0).json().remove(0);
    assert!(!bench.path("store").exists(), "nothing is stored");
    let layers: Vec<_> = image.layers().iter().map(|layer| layer.digest.as_str()).collect();
    let asked = registry.requests();
    assert!(!asked.iter().any(|request| layers.iter().any(|layer| request.path.contains(layer))));

    bench.run(["pull", &name]).exits(0);
    let local = bench.run(["inspect", "--json", &name]).exits(0).json().remove(0);
    for (field, value) in local.as_object().unwrap() {
        match field.as_str() {
            "pinned" => assert!(remote.get(field).is_none()),
            "platforms" => assert_eq!(remote[field].as_array().unwrap().len(), 2),
            "index_digest" => assert_eq!(remote[field], image.digest().as_str()),
            _ => assert_eq!(&remote[field], value, "{field}"),
        }
    }

    let variant = image.variant(other).unwrap();
    for (args, digest) in [
        (&["--raw"][..], image.digest()),
        (&["--raw", "--platform", other], &variant.manifest.digest),
        (&["--raw", "--config", "--platform", other], &variant.config.digest),
    ] {
        let raw = bench.run(["inspect", "--remote", &name].iter().chain(args)).exits(0).stdout;
        assert_eq!(Digest::sha256(raw.as_bytes()), *digest, "{args:?}");
    }
    let ran = bench.run(["inspect", "--plain-http", "x", &name]).exits(2);
    assert!(ran.stderr.contains("--remote"), "{ran:#?}");
}
