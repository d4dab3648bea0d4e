//! A container that `runc` runs from an unpacked image.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use libtest_mimic::Trial;
use oci_puller::image::Digest;
use oci_puller::testing::Registry;
use oci_puller::testing::images::ImageBuilder;
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::real;

const BUSYBOX: &str = "/bin/busybox";

/// Ignored where `runc` cannot start a container at all: it needs rights that many containers lack.
pub(crate) fn trial() -> Trial {
    let name = "runc_runs_an_unpacked_image";
    let can_run = Path::new(BUSYBOX).exists() && probe();
    if can_run {
        real::test(name, run)
    } else {
        real::missing(name, "runc and a static busybox cannot run here".to_owned(), false)
    }
}

/// Runs `runc` with a bundle; returns what the container wrote.
fn runc(bundle: &Path, state: &Path) -> Option<String> {
    let id = format!("oci-puller-test-{}", std::process::id());
    let mut command = Command::new("runc");
    command.arg("--root").arg(state).arg("run").arg("--bundle").arg(bundle).arg(id);
    let output = command.stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a container from a bundle made by hand.
fn probe() -> bool {
    let at = tempfile::tempdir().unwrap();
    let bin = at.path().join("rootfs/bin");
    fs::create_dir_all(&bin).unwrap();
    let is_specified = fs::copy(BUSYBOX, bin.join("busybox")).is_ok()
        && Command::new("runc")
            .arg("spec")
            .current_dir(at.path())
            .status()
            .is_ok_and(|status| status.success());
    if !is_specified {
        return false;
    }
    let file = at.path().join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = json!(["/bin/busybox", "true"]);
    fs::write(&file, spec.to_string()).unwrap();
    runc(at.path(), &at.path().join("state")).is_some()
}

fn run() {
    let (bench, registry) = (Bench::new(), Registry::start().unwrap());
    let rewrite = |bytes: Vec<u8>| {
        let mut config: Value = serde_json::from_slice(&bytes).unwrap();
        config["config"] = json!({
            "Entrypoint": ["/bin/busybox", "sh", "-c"], "Cmd": ["echo $GREETING from $PWD"],
            "Env": ["GREETING=hello"], "WorkingDir": "/data",
        });
        config.to_string().into_bytes()
    };
    let tree = bench.path("tree");
    fs::create_dir_all(tree.join("bin")).unwrap();
    fs::copy(BUSYBOX, tree.join("bin/busybox")).unwrap();
    let layer = real::run("tar", ["-c", "-C", tree.to_str().unwrap(), "bin"]);
    let diff_id = Digest::sha256(&layer);
    let builder =
        ImageBuilder::new("box").layer_made("application/vnd.oci.image.layer.v1.tar", layer, diff_id);
    let image = builder.rewrite_config(rewrite).build();
    let name = registry.push(&image, "1");
    let root = bench.path("bundle/rootfs").to_str().unwrap().to_owned();
    fs::create_dir(bench.path("bundle")).unwrap();
    bench.run(["pull", "--unpack", &root, &name]).exits(0);
    let config = bench.run(["run-config", &name, "--root", &root]).exits(0).stdout;
    bench.file("bundle/config.json", config);
    let said = runc(&bench.path("bundle"), &bench.path("state"));
    assert_eq!(said.as_deref(), Some("hello from /data\n"));
}
