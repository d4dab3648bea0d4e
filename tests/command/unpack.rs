use std::fs;

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
