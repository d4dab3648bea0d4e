use std::fs::{self, File};

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
    assert_eq!(came, [json!({ "source": archive, "names": [name] })]);
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
