//! Pulls for several platforms, and `--dry-run`.

use oci_puller::testing::images::ImageBuilder;
use oci_puller::testing::{Action, Fault, Registry, Target};
use serde_json::{Value, json};

use crate::bench::{Bench, registry_with};

const PLATFORMS: [&str; 3] = ["linux/amd64", "linux/arm64", "linux/s390x"];

fn registry_with_platforms() -> (Registry, oci_puller::testing::images::Image, String) {
    let registry = Registry::start().unwrap();
    let image = ImageBuilder::new("app").layer(20_000).layer_shared(1, 5_000).platforms(PLATFORMS).build();
    let name = registry.push(&image, "1");
    (registry, image, name)
}

#[test]
fn several_platforms_are_pulled_whole_and_the_index_is_kept() {
    for (args, wanted) in [
        (&["--platform", "linux/arm64", "--platform", "linux/s390x"][..], &PLATFORMS[1..]),
        (&["--all-platforms"], &PLATFORMS[..]),
    ] {
        let (bench, (registry, image, name)) = (Bench::new(), registry_with_platforms());
        let pulled = bench.run(["pull", "--json", &name].iter().chain(args)).exits(0).json().remove(0);
        assert_eq!(pulled["manifest_digest"], image.digest().as_str());
        bench.run(["verify"]).exits(0);
        let listed = bench.run(["images", "--json"]).exits(0).json();
        let mut platforms: Vec<_> = listed.iter().map(|line| line["platform"].as_str().unwrap()).collect();
        platforms.sort_unstable();
        assert_eq!(platforms, wanted);
        for platform in wanted {
            let line =
                bench.run(["inspect", "--json", "--platform", platform, &name]).exits(0).json().remove(0);
            let variant = image.variant(platform).unwrap();
            assert_eq!(line["manifest_digest"], variant.manifest.digest.as_str());
            assert_eq!(line["index_digest"], image.digest().as_str());
            assert_eq!(line["platforms"].as_array().unwrap().len(), wanted.len());
        }
        // All of it is there: a further pull fetches the index alone.
        let again = bench.run(["pull", "--json", &name].iter().chain(args)).exits(0).json().remove(0);
        assert_eq!(again["bytes_fetched"], image.manifest_bytes().len());
        // The registry is not asked for what is there for each platform.
        registry.forget_requests();
        if args.len() > 1 {
            bench.run(["pull", "--pull=missing", &name].iter().chain(args)).exits(0);
            assert!(registry.requests().is_empty());
            bench
                .run(["pull", "--pull=never", "--platform=linux/amd64", "--platform=linux/arm64", &name])
                .exits(1);
        }
        bench.run(["rm", &name]).exits(0);
        assert_eq!(bench.run(["verify", "--json"]).exits(0).json()[0]["sound"], 0);
    }
}

#[test]
fn a_platform_that_is_not_there_fails_the_pull() {
    let (bench, (_registry, _, name)) = (Bench::new(), registry_with_platforms());
    let ran = bench.run(["pull", "--platform=linux/arm64", "--platform=linux/mips64le", &name]).exits(1);
    assert!(ran.errors()[0].contains("linux/mips64le"), "{ran:#?}");
    assert_eq!(bench.run(["images", "--json"]).exits(0).stdout, "");
    bench.run(["pull", "--platform=linux/arm64", "--all-platforms", &name]).exits(2);
    bench.run(["pull", "--pull=missing", "--all-platforms", &name]).exits(2);
}

#[test]
fn all_platforms_of_indexes_in_an_index_are_pulled() {
    let (bench, registry) = (Bench::new(), Registry::start().unwrap());
    let image = ImageBuilder::new("app").layer(20_000).platforms(PLATFORMS).nested(2).build();
    let name = registry.push(&image, "1");
    bench.run(["pull", "--all-platforms", &name]).exits(0);
    let report = bench.run(["verify", "--json"]).exits(0).json().remove(0);
    assert_eq!(report["sound"], image.documents().count() + image.blobs().count(), "{report}");
    assert_eq!(bench.run(["images", "--json"]).exits(0).json().len(), 3);
}

#[test]
fn attestations_belong_to_all_platforms() {
    let (bench, registry) = (Bench::new(), Registry::start().unwrap());
    let config = registry.put_blob("app", b"{}".to_vec());
    let statement = registry.put_blob("app", b"provenance".to_vec());
    let attestation = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.as_str(), "size": 2 },
        "layers": [{ "mediaType": "application/vnd.in-toto+json", "digest": statement.as_str(), "size": 10 }],
    });
    let attestation = attestation.to_string().into_bytes();
    let size = attestation.len();
    let digest = oci_puller::image::Digest::sha256(&attestation);
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    registry.put_manifest("app", digest.as_str(), media_type, attestation);
    let add = move |bytes: Vec<u8>| {
        let mut index: Value = serde_json::from_slice(&bytes).unwrap();
        index["manifests"].as_array_mut().unwrap().push(json!({
            "mediaType": media_type, "digest": digest.as_str(), "size": size,
            "platform": { "os": "unknown", "architecture": "unknown" },
            "annotations": { "vnd.docker.reference.type": "attestation-manifest" },
        }));
        index.to_string().into_bytes()
    };
    let image = ImageBuilder::new("app").layer(20_000).platforms(PLATFORMS).rewrite_index(add).build();
    let name = registry.push(&image, "1");
    bench.run(["pull", "--all-platforms", &name]).exits(0);
    let report = bench.run(["verify", "--json"]).exits(0).json().remove(0);
    // The index; manifest, config and layer of each platform; manifest, config and statement.
    assert_eq!((&report["sound"], &report["left_out"]), (&13.into(), &0.into()), "{report}");
    bench.run(["pull", "--platform=linux/arm64", "--platform=linux/s390x", &name]).exits(0);
    bench.run(["verify"]).exits(0);
}

#[test]
fn a_dry_run_tells_what_a_pull_then_fetches() {
    for args in [
        &["--platform=linux/arm64"][..],
        &["--all-platforms"],
        &["--platform=linux/arm64", "--platform=linux/amd64"],
    ] {
        let (bench, (registry, image, name)) = (Bench::new(), registry_with_platforms());
        let dry_run = || bench.run(["pull", "--json", "--dry-run", &name].iter().chain(args)).exits(0);
        let planned = dry_run().json();
        assert!(!bench.path("store").exists(), "nothing is stored");
        let layers: Vec<_> = image.layers().iter().map(|layer| layer.digest.as_str()).collect();
        let asked = registry.requests();
        assert!(!asked.iter().any(|request| layers.iter().any(|layer| request.path.contains(layer))));
        let sum =
            |lines: &[Value]| lines.iter().map(|line| line["bytes_to_fetch"].as_u64().unwrap()).sum::<u64>();
        let pulled = bench.run(["pull", "--json", &name].iter().chain(args)).exits(0).json().remove(0);
        assert_eq!(pulled["bytes_fetched"], sum(&planned), "{args:?}: {planned:?}");
        for line in &planned {
            let variant = image.variant(line["platform"].as_str().unwrap()).unwrap();
            assert_eq!(line["manifest_digest"], variant.manifest.digest.as_str());
            assert_eq!(line["size"], variant.size());
        }
        // The index is asked for again, by its tag.
        assert_eq!(sum(&dry_run().json()), image.manifest_bytes().len() as u64);
    }
}

#[test]
fn a_dry_run_of_several_images_has_a_table_a_sum_and_the_exit_code_of_a_pull() {
    let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
    let other = registry.push(&crate::bench::image("other"), "2");
    let ran = bench.run(["pull", "--dry-run", &name, &other]).exits(0);
    assert_eq!(ran.stdout.lines().count(), 3, "{ran:#?}");
    // 20 kB each, and the 30 kB that both have, once.
    assert!(
        ran.stderr.contains("dry run: 2 of 2 images; ") && ran.stderr.contains("kB to fetch in 7 "),
        "{ran:#?}"
    );
    registry.fault(Fault::on(Target::Manifest).path_containing("other").with(Action::Status(503)));
    let ran = bench.run(["pull", "--dry-run", "--json", "--retries=0", &name, &other]).exits(3);
    assert_eq!(
        (ran.errors().len(), ran.json()[1]["error"]["kind"].as_str()),
        (1, Some("Unavailable")),
        "{ran:#?}"
    );
    let ran = bench.run(["pull", "--dry-run", &format!("{}/missing", registry.host())]).exits(1);
    assert_eq!((ran.errors().len(), ran.stdout.as_str()), (1, ""), "{ran:#?}");
    for wrong in ["--quiet", "--pull=missing", "--cri=auto"] {
        bench.run(["pull", "--dry-run", wrong, &name]).exits(2);
    }
}
