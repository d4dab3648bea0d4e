use std::fs::{self, File};
use std::process::Stdio;

use serde_json::json;

use crate::bench::{Bench, Ran, image, registry_with, short};

#[test]
fn an_image_goes_out_and_comes_in_unchanged() {
    let (bench, (_registry, name)) = (Bench::new(), registry_with("app"));
    bench.run(["pull", &name]).exits(0);
    let archive = bench.path("app.tar").to_str().unwrap().to_owned();
    let told = bench.run(["export", "--json", &name, "-o", &archive]).exits(0).json().remove(0);
    let id = image("app").config_digest().to_string();
    let bytes = fs::metadata(&archive).unwrap().len();
    assert_eq!(told, json!({ "image": name, "image_ref": id, "file": archive, "bytes": bytes }));

    let other = Bench::new();
    let came = other.run(["import", "--json", &archive]).exits(0).json();
    assert_eq!(came, [json!({ "source": archive, "names": [name], "left_out": [] })]);
    other.run(["verify"]).exits(0);
    let again = other.path("again.tar").to_str().unwrap().to_owned();
    other.run(["export", &name, "--output", &again]).exits(0);
    assert!(fs::read(&archive).unwrap() == fs::read(&again).unwrap());
}

#[test]
fn archives_go_through_pipes_and_layouts_are_folders() {
    let (bench, (_registry, name)) = (Bench::new(), registry_with("app"));
    bench.run(["pull", &name]).exits(0);
    let archive = bench.path("app.tar");
    let mut export = bench.command(["export", &name]);
    assert!(export.stdout(File::create(&archive).unwrap()).status().unwrap().success());

    let piped = Bench::new();
    let ran = Ran::of(piped.command(["import", "-"]).stdin(File::open(&archive).unwrap())).exits(0);
    assert_eq!(ran.stdout, format!("{name}\n"));
    let copied = Bench::new();
    let ran = copied.run(["import", bench.path("store").to_str().unwrap()]).exits(0);
    assert_eq!(ran.stdout, format!("{name}\n"));
    for bench in [piped, copied] {
        let images = bench.run(["images"]).exits(0).stdout;
        assert!(images.contains(short(image("app").config_digest().as_str())), "{images}");
    }
}

#[test]
fn what_is_no_archive_is_named_and_the_rest_comes_in() {
    let (bench, (_registry, name)) = (Bench::new(), registry_with("app"));
    bench.run(["pull", &name]).exits(0);
    let good = bench.path("app.tar").to_str().unwrap().to_owned();
    bench.run(["export", &name, "-o", &good]).exits(0);
    let bad = bench.file("bad.tar", "no tar at all");

    let other = Bench::new();
    let ran = other.run(["import", &bad, "/no/such.tar", &good]).exits(1);
    assert_eq!(ran.errors().len(), 2, "{ran:#?}");
    assert!(ran.errors()[0].contains(&bad) && ran.errors()[1].contains("/no/such.tar"), "{ran:#?}");
    assert_eq!(ran.stdout, format!("{name}\n"));
}

#[test]
fn an_export_that_fails_leaves_no_file() {
    let (bench, (_registry, name)) = (Bench::new(), registry_with("app"));
    bench.run(["pull", &name]).exits(0);
    let layer = image("app").layers()[0].digest.clone();
    fs::remove_file(bench.path("store/blobs/sha256").join(layer.hex())).unwrap();
    let out = bench.path("out");
    fs::create_dir(&out).unwrap();
    let ran = bench.run(["export", &name, "-o", out.join("app.tar").to_str().unwrap()]).exits(1);
    assert!(ran.errors()[0].contains(layer.as_str()), "{ran:#?}");
    assert_eq!(fs::read_dir(out).unwrap().count(), 0);
    bench.run(["export", "no/such", "-o", "x"]).exits(1);
}

#[test]
fn an_export_follows_links_and_writes_into_what_is_no_regular_file() {
    let (bench, (_registry, name)) = (Bench::new(), registry_with("app"));
    bench.run(["pull", &name]).exits(0);
    let path = |file: &str| bench.path(file).to_str().unwrap().to_owned();
    bench.file("bystander.tar.part", "not ours");
    bench.run(["export", &name, "-o", &path("bystander.tar")]).exits(0);
    assert_eq!(fs::read(path("bystander.tar.part")).unwrap(), b"not ours");
    let archive = fs::read(path("bystander.tar")).unwrap();

    bench.file("target.tar", "replaced");
    for target in ["target.tar", "not-there-yet.tar"] {
        let link = path(&format!("link-to-{target}"));
        std::os::unix::fs::symlink(target, &link).unwrap();
        bench.run(["export", &name, "-o", &link]).exits(0);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::read(path(target)).unwrap() == archive);
    }

    let fifo = path("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::read(fifo).unwrap()
    });
    bench.run(["export", &name, "-o", &fifo]).exits(0);
    assert!(reader.join().unwrap() == archive);
    bench.run(["export", &name, "-o", "/dev/null"]).exits(0);
    let names = fs::read_dir(bench.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!names.into_iter().any(|name| name.to_string_lossy().starts_with('.')), "nothing is left");
}

#[test]
fn names_are_taken_as_they_are_typed() {
    let (bench, (_registry, name)) = (Bench::new(), registry_with("app"));
    bench.run(["pull", &name]).exits(0);
    let archive = bench.path("app.tar").to_str().unwrap().to_owned();
    bench.run(["export", &name, "-o", &archive]).exits(0);
    let other = Bench::new();
    let told = other.run(["import", "--name", "renamed", &archive]).exits(0);
    assert_eq!(told.stdout, "docker.io/library/renamed:latest\n");
    for typed in ["renamed", "docker.io/library/renamed:latest"] {
        other.run(["export", typed, "-o", "/dev/null"]).exits(0);
    }
    let platform = other.run(["images", "--json"]).exits(0).json()[0]["platform"].clone();
    assert!(platform.as_str().unwrap().contains('/'), "{platform}");
    other.run(["rm", "renamed"]).exits(0);
    assert_eq!(other.run(["images", "--json"]).exits(0).stdout, "");
}

#[test]
fn a_name_is_taken_as_typed_first_and_then_in_full() {
    let (bench, (_registry, name)) = (Bench::new(), registry_with("app"));
    bench.run(["pull", &name]).exits(0);
    // `alpine` as it stands, and in full.
    let index = bench.path("store/index.json");
    let text = fs::read_to_string(&index).unwrap();
    let named = |to: &str| text.replace(&format!("\"{name}\""), &format!("\"{to}\""));
    for (written, typed) in [
        ("v1", "v1"),
        ("alpine", "alpine"),
        ("index.docker.io/library/app:1", "index.docker.io/library/app:1"),
        ("docker.io/library/alpine:latest", "alpine"),
        ("docker.io/library/alpine:latest", "index.docker.io/library/alpine"),
    ] {
        fs::write(&index, named(written)).unwrap();
        let archive = bench.path("app.tar").to_str().unwrap().to_owned();
        bench.run(["export", typed, "-o", &archive]).exits(0);
        let other = Bench::new();
        assert_eq!(other.run(["import", &archive]).exits(0).stdout, format!("{written}\n"));
        assert_eq!(other.run(["images", "--json"]).exits(0).json()[0]["names"], json!([written]));
        assert!(other.run(["rm", typed]).exits(0).stdout.contains(written), "{typed}");
        assert_eq!(other.run(["images", "--json"]).exits(0).stdout, "");
    }
}

#[test]
fn concurrent_exports_to_one_file_do_not_mix() {
    let bench = Bench::new();
    let (_registries, names): (Vec<_>, Vec<_>) = ["one", "two"].map(registry_with).into_iter().unzip();
    let archives = names.iter().enumerate().map(|(at, name)| {
        bench.run(["pull", name]).exits(0);
        let path = bench.path(format!("{at}.tar")).to_str().unwrap().to_owned();
        bench.run(["export", name, "-o", &path]).exits(0);
        fs::read(path).unwrap()
    });
    let archives: Vec<_> = archives.collect();
    fs::create_dir(bench.path("out")).unwrap();
    let shared = bench.path("out/shared.tar");
    for _ in 0..5 {
        let children = names.iter().cycle().take(6).map(|name| {
            let mut export = bench.command(["export", name, "-o", shared.to_str().unwrap()]);
            export.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        });
        for mut child in children.collect::<Vec<_>>() {
            assert!(child.wait().unwrap().success());
        }
        let written = fs::read(&shared).unwrap();
        assert!(archives.contains(&written), "one of the two, whole");
        assert_eq!(fs::read_dir(bench.path("out")).unwrap().count(), 1, "nothing else is left");
    }
}
