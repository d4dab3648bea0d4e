use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use oci_puller::testing::Registry;
use oci_puller::testing::images::ImageBuilder;

use crate::bench::Bench;

/// A store with one image, `app:1`, whose config says how to run it.
fn pulled(config: &'static str) -> (Bench, Registry, String) {
    let (bench, registry) = (Bench::new(), Registry::start().unwrap());
    let rewrite = move |bytes: Vec<u8>| {
        let mut json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        json["config"] = serde_json::from_str(config).unwrap();
        json.to_string().into_bytes()
    };
    let image = ImageBuilder::new("app").layer(20_000).layer(5_000).rewrite_config(rewrite).build();
    let name = registry.push(&image, "1");
    bench.run(["pull", &name]).exits(0);
    (bench, registry, name)
}

#[test]
fn an_image_becomes_a_root_file_system_once() {
    let (bench, _registry, name) = pulled("{}");
    let root = bench.path("rootfs");
    let dir = root.to_str().unwrap();
    let ran = bench.run(["unpack", "--owners", "current", &name, dir, "--json"]).exits(0);
    let line = &ran.json()[0];
    assert_eq!(line["image"], name.as_str());
    assert!(line["files"].as_u64() > Some(0) && line["bytes"].as_u64() > Some(0), "{line}");
    assert!(fs::read_dir(&root).unwrap().count() > 0);
    let help = bench.run(["unpack", "--help"]).exits(0).stdout;
    for field in line.as_object().unwrap().keys() {
        assert!(help.contains(field.as_str()), "--help does not tell of {field}");
    }
    let again = bench.run(["unpack", &name, dir]).exits(1);
    assert!(again.errors()[0].contains("empty"), "{again:#?}");
    let small = bench.run(["unpack", "--max-unpacked", "1kB", &name, bench.path("other").to_str().unwrap()]);
    assert!(small.exits(1).errors()[0].contains("denied"));
}

#[test]
fn a_run_config_says_what_the_image_says() {
    let (bench, _registry, name) = pulled(
        r#"{"Entrypoint": ["/bin/app"], "Cmd": ["serve"], "Env": ["A=b"], "WorkingDir": "/srv", "User": "7:8",
            "Labels": {"k": "v"}, "StopSignal": "SIGINT", "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}}}"#,
    );
    let ran = bench.run(["run-config", &name]).exits(0);
    let spec: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let process = &spec["process"];
    assert_eq!(process["args"], serde_json::json!(["/bin/app", "serve"]));
    assert_eq!((&process["user"]["uid"], &process["user"]["gid"]), (&7.into(), &8.into()));
    assert_eq!(process["cwd"], "/srv");
    let env: Vec<&str> =
        process["env"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert!(
        env.contains(&"A=b") && env[0].starts_with("PATH=/usr/local/sbin") && env.contains(&"HOME=/"),
        "{env:?}"
    );
    assert_eq!(spec["annotations"]["k"], "v");
    assert_eq!(spec["annotations"]["org.opencontainers.image.stopSignal"], "SIGINT");
    assert!(spec["mounts"].as_array().unwrap().iter().any(|mount| mount["destination"] == "/data"));
    assert_eq!(spec["root"]["path"], "rootfs");

    let other = bench.run(["run-config", &name, "--", "sh", "-c", "true"]).exits(0);
    let spec: serde_json::Value = serde_json::from_str(&other.stdout).unwrap();
    assert_eq!(spec["process"]["args"], serde_json::json!(["/bin/app", "sh", "-c", "true"]));
}

#[test]
fn a_user_by_name_needs_the_root_and_an_image_a_command() {
    let (bench, _registry, name) = pulled(r#"{"Cmd": ["sh"], "User": "web"}"#);
    assert!(bench.run(["run-config", &name]).exits(2).stderr.contains("--root"));
    bench.file("root/etc/passwd", "web:x:33:34::/srv:/bin/sh\n");
    bench.file("root/etc/group", "adm:x:4:web\n");
    let root = bench.path("root");
    let ran = bench.run(["run-config", &name, "--root", root.to_str().unwrap()]).exits(0);
    let spec: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(spec["process"]["user"], serde_json::json!({ "uid": 33, "gid": 34, "additionalGids": [4] }));
    assert!(spec["process"]["env"].as_array().unwrap().contains(&"HOME=/srv".into()));

    let (bench, _registry, name) = pulled("{}");
    assert!(bench.run(["run-config", &name]).exits(2).stderr.contains("-- COMMAND"));
}

/// The paths and contents of a tree's regular files.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn folder_tar_and_layers_hold_the_same_files() {
    let (bench, _registry, name) = pulled("{}");
    let path = |name: &str| bench.path(name).to_str().unwrap().to_owned();
    bench.run(["unpack", "--owners", "current", &name, &path("root")]).exits(0);
    let expected = files(&bench.path("root"));
    assert!(!expected.is_empty());

    bench.run(["unpack", &name, "--tar", &path("image.tar")]).exits(0);
    let piped = bench.command(["unpack", &name, "--tar", "-"]).output().unwrap();
    assert!(piped.status.success() && piped.stdout == fs::read(bench.path("image.tar")).unwrap());
    bench.run(["unpack", &name, "--tar", "-", "--json"]).exits(2);

    let ran =
        bench.run(["unpack", "--owners", "current", &name, "--layers", &path("layers"), "--json"]).exits(0);
    let folders = ran.json()[0]["layers"].as_array().unwrap().clone();
    assert_eq!(folders.len(), 2);
    let mut merged = BTreeMap::new();
    for folder in folders.iter().rev() {
        merged.extend(files(Path::new(folder.as_str().unwrap())));
    }
    assert_eq!(merged, expected);
    let ran = bench.run(["unpack", "--owners", "current", &name, "--layers", &path("layers")]).exits(0);
    let printed: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(printed, folders.iter().map(|folder| folder.as_str().unwrap()).collect::<Vec<_>>());
    bench.run(["unpack", &name, &path("x"), "--tar", &path("y")]).exits(2);
}

#[test]
fn a_pull_unpacks_to_a_folder_or_to_layers() {
    let (bench, _registry, name) = pulled("{}");
    let path = |name: &str| bench.path(name).to_str().unwrap().to_owned();
    bench.run(["unpack", "--owners", "current", &name, &path("expected")]).exits(0);
    let store = path("other");
    let pull = |args: &[&str]| {
        let all = [&["pull", "--store", &store, "--owners", "current", &name], args].concat();
        bench.run(all)
    };
    let ran = pull(&["--unpack", &path("root"), "--json"]).exits(0);
    assert_eq!(ran.json()[1]["image"], name.as_str());
    assert_eq!(files(&bench.path("root")), files(&bench.path("expected")));
    assert!(pull(&["--unpack", &path("root")]).exits(1).errors()[0].contains("empty"));

    for when in ["always", "missing"] {
        let ran = pull(&["--layers", &path("layers"), "--pull", when, "--json"]).exits(0);
        let folders = ran.json()[1]["layers"].as_array().unwrap().clone();
        assert_eq!(folders.len(), 2);
        assert!(folders.iter().all(|folder| !files(Path::new(folder.as_str().unwrap())).is_empty()));
    }
    pull(&["--unpack", &path("a"), "--layers", &path("b")]).exits(2);
    pull(&["--unpack", &path("a"), &name]).exits(2);
    pull(&["--layers", &path("b"), "--all-platforms"]).exits(2);
}
