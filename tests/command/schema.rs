//! JSON is an interface: the fields of each command's objects, which `--help` documents.

use serde_json::Value;

use crate::bench::{Bench, registry_with};

/// Returns the names of an object's fields, in the order of the object.
fn fields(object: &Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn each_command_prints_the_fields_that_its_help_lists() {
    let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
    let missing = format!("{}/missing", registry.host());
    let archive = bench.path("app.tar").to_str().unwrap().to_owned();
    let inspected = "config image_ref index_digest layers manifest_digest media_type names pinned platforms repo_digests size";
    let cases: &[(&[&str], i32, &str)] = &[
        (&["pull", "--dry-run", &name], 0, "bytes_to_fetch image manifest_digest ok platform size"),
        (&["pull", "--dry-run", &missing], 1, "error image ok"),
        (
            &["pull", &name],
            0,
            "bytes_fetched bytes_reused image image_ref manifest_digest ok pull_seconds repo_digest size wait_seconds",
        ),
        (&["pull", &missing], 1, "error image ok pull_seconds wait_seconds"),
        (
            &["images"],
            0,
            "created image_ref last_used layers manifest_digest names pinned platform repo_digests size",
        ),
        (&["inspect", &name], 0, inspected),
        (&["digest", &name], 0, "digest image media_type size"),
        (&["tags", &name], 0, "is_complete repository tags"),
        (&["pin", &name], 0, "image pinned"),
        (&["unpin", &name], 0, "image pinned"),
        (&["export", &name, "--output", &archive], 0, "bytes file image image_ref"),
        (&["prune", "--above", "100"], 0, "blobs bytes names"),
        (&["rm", &name], 0, "blobs bytes image names"),
        (&["import", &archive], 0, "left_out names source"),
    ];
    for (args, code, expected) in cases {
        let ran = bench.run(args.iter().chain(&["--json"])).exits(*code);
        let objects = ran.json();
        let [object] = &objects[..] else { panic!("{args:?}: {ran:#?}") };
        let mut found = fields(object);
        found.sort_unstable();
        assert_eq!(found.join(" "), *expected, "{args:?}");
        let help = bench.run([args[0], "--help"]).exits(0).stdout;
        // The help of pin and unpin names the image in its text.
        let is_documented = |field: &&&str| help.contains(**field) || ["image", "pinned"].contains(*field);
        let undocumented: Vec<_> = found.iter().filter(|field| !is_documented(field)).collect();
        assert!(undocumented.is_empty(), "{args:?}: {undocumented:?}");
    }
}
