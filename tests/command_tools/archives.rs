//! Archives that other programs read, and the README.

use std::path::Path;
use std::process::{Command, Stdio};

use oci_puller::testing::Registry;
use oci_puller::testing::images::ImageBuilder;
use serde_json::Value;

use crate::Test;
use crate::bench::{Bench, image, registry_with};
use crate::real;

pub const TESTS: &[Test] = &[
    ("a_docker_archive_is_read_as_one", &["skopeo"], docker_archive),
    ("the_readme_is_followed_in_an_empty_folder", &["sh", "skopeo"], readme),
];

fn docker_archive() {
    let (bench, (_registry, name)) = (Bench::new(), registry_with("app"));
    bench.run(["pull", &name]).exits(0);
    let archive = bench.path("app.tar").to_str().unwrap().to_owned();
    bench.run(["export", "--format", "docker", &name, "--output", &archive]).exits(0);
    for source in ["docker-archive", "oci-archive"] {
        let inspected = real::run("skopeo", ["inspect", "--config", "--raw", &format!("{source}:{archive}")]);
        let config: Value = serde_json::from_slice(&inspected).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), image("app").layers().len());
    }
    let inspected = real::run("skopeo", ["inspect", &format!("docker-archive:{archive}:{name}")]);
    let inspected: Value = serde_json::from_slice(&inspected).unwrap();
    assert_eq!(inspected["Layers"].as_array().unwrap().len(), image("app").layers().len());
    let other = Bench::new();
    assert_eq!(other.run(["import", &archive]).exits(0).stdout, format!("{name}\n"));
}

/// Runs each command of the README's shell examples that starts with the command's name or `skopeo`, with the images in a
/// registry of the test.
fn readme() {
    let (bench, registry) = (Bench::new(), Registry::start().unwrap());
    let folder = bench.path("empty");
    std::fs::create_dir(&folder).unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_oci-puller")).parent().unwrap().to_owned();
    let path = std::env::var_os("PATH").unwrap();
    let path = std::env::join_paths([programs].into_iter().chain(std::env::split_paths(&path))).unwrap();
    let text = include_str!("../../README.md");
    let blocks = text.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    let is_meant = |line: &&str| line.starts_with("oci-puller ") || line.starts_with("skopeo ");
    let lines: Vec<_> = blocks.flat_map(str::lines).filter(is_meant).collect();
    assert!(!lines.is_empty());
    for line in lines {
        if !cfg!(feature = "unpack") && ["unpack", "run-config"].iter().any(|word| line.contains(word)) {
            continue;
        }
        let line: Vec<_> = line.split(' ').map(|word| at_registry(&registry, word)).collect();
        let line = line.join(" ");
        let mut command = Command::new("sh");
        command.args(["-euc", &line]).current_dir(&folder).env_clear().stdin(Stdio::null());
        command.env("PATH", &path).env("HOME", bench.path("home")).env("TMPDIR", bench.path("tmp"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
    }
}

/// Pushes an image for a word that names one, and returns its name there; returns other words as they are.
fn at_registry(registry: &Registry, word: &str) -> String {
    let (before, name) =
        word.rsplit_once("oci:./images:").map_or(("", word), |(_, name)| ("oci:./images:", name));
    let is_image =
        ["alpine", "docker.io/", "quay.io/", "ghcr.io/"].iter().any(|start| name.starts_with(start));
    if !is_image {
        return word.to_owned();
    }
    let reference = oci_puller::image::Reference::parse(name).unwrap();
    let config = |bytes: Vec<u8>| {
        let mut json: Value = serde_json::from_slice(&bytes).unwrap();
        json["config"] = serde_json::json!({ "Cmd": ["sh"] });
        json.to_string().into_bytes()
    };
    let image = ImageBuilder::new(reference.repository()).layer(20_000).rewrite_config(config).build();
    format!("{before}{}", registry.push(&image, reference.tag().unwrap_or("latest")))
}
