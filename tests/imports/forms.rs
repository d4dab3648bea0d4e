//! Archives and layouts in the forms that tools give them.

use oci_puller::image::Digest;
use oci_puller::store::ImportOptions;
use oci_puller::{ErrorKind, PullContext};
use serde_json::{Value, json};

use crate::made::{Image, Machine, Made, gzip, header};

const DOCKER_NAME: &str = "docker.io/library/app:1";

/// A tar file that is written entry by entry.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn entry(&mut self, kind: u8, path: &str, content: &[u8]) {
        self.0.extend_from_slice(&header(kind, path, content.len() as u64));
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    fn files<'f>(&mut self, files: impl IntoIterator<Item = (&'f str, &'f [u8])>) {
        files.into_iter().for_each(|(path, content)| self.entry(b'0', path, content));
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The whole archive of `docker save`, version 25 and later: folders as entries, and both lists.
fn docker_archive(made: &Made, index: &str, manifest: &Value) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.entry(b'5', "blobs/", b"");
    archive.entry(b'5', "blobs/sha256/", b"");
    archive.files(made.files.iter().map(|(path, content)| (&**path, &**content)));
    let manifest = manifest.to_string();
    archive.files([
        ("index.json", index.as_bytes()),
        ("manifest.json", manifest.as_bytes()),
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
    ]);
    archive.finish()
}

/// What `manifest.json` says of an image.
fn saved(image: &Image, tags: Value) -> Value {
    let source = json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "size": 1, "digest": image.layer.as_str() });
    json!({
        "Config": path(&image.id), "RepoTags": tags, "Layers": [path(&image.layer)],
        "LayerSources": { image.layer.as_str(): source },
    })
}

/// What `index.json` of `docker save` says of an image.
fn listed(image: &Image, name: &str, tag: &str) -> Value {
    let mut entry = image.descriptor.clone();
    entry.as_object_mut().unwrap().remove("platform");
    entry["annotations"] =
        json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag });
    entry
}

fn import(archive: &[u8]) -> (Machine, Result<Vec<String>, oci_puller::Error>) {
    let machine = Machine::new("linux/amd64");
    let outcome = machine.store.import(&PullContext::new(), archive);
    match &outcome {
        Ok(_) => assert!(machine.store.verify(&PullContext::new()).unwrap().is_sound()),
        Err(_) => assert_eq!(machine.blobs(), 0, "nothing is left"),
    }
    (machine, outcome)
}

#[test]
fn both_lists_of_docker_s_archives_count() {
    let mut made = Made::default();
    let (first, second) = (made.image("linux/amd64"), made.image("linux/amd64 second"));
    let index = |entries: &[Value]| {
        json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries,
        })
        .to_string()
    };
    let none =
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":null}"#;
    let entry = listed(&first, DOCKER_NAME, "1");
    let other = "docker.io/library/app:2";

    // Saved by a digest or an id: no name, and nothing in the index.
    let (machine, names) = import(&docker_archive(&made, none, &json!([saved(&first, Value::Null)])));
    let names = names.unwrap();
    let [(manifest, listed_names)] = &machine.images()[..] else { panic!("{:?}", machine.images()) };
    assert_eq!((&names[..], &listed_names[..]), (&[manifest.to_string()][..], &[][..]));
    for key in [first.id.as_str(), first.id.hex(), manifest.as_str()] {
        assert_eq!(machine.found(key).as_ref(), Some(manifest), "{key}");
    }
    assert_eq!(machine.blobs(), 3, "what no image needs is not kept");

    // The index lists fewer, as many, and more images than the other list.
    let both = json!([saved(&first, json!(["app:1"])), saved(&second, json!(["app:2"]))]);
    let lists = [
        (index(std::slice::from_ref(&entry)), both.clone()),
        (index(&[entry.clone(), listed(&second, other, "2")]), both.clone()),
        (index(&[entry.clone(), listed(&second, other, "2")]), json!([saved(&first, json!(["app:1"]))])),
        (none.to_owned(), both.clone()),
    ];
    for (index, manifest) in &lists {
        let (machine, names) = import(&docker_archive(&made, index, manifest));
        assert_eq!(names.unwrap(), [DOCKER_NAME, other], "{index} {manifest}");
        assert_eq!(machine.images().len(), 2);
        for (name, image) in [(DOCKER_NAME, &first), (other, &second)] {
            assert_eq!(machine.store.find(name).unwrap().unwrap().id, image.id, "{index} {manifest}");
        }
    }
    // An image that both list is one image, with the names of both.
    let (machine, names) = import(&docker_archive(
        &made,
        &index(std::slice::from_ref(&entry)),
        &json!([saved(&first, json!(["app:1", "host/app:3"]))]),
    ));
    assert_eq!(
        names.unwrap(),
        [DOCKER_NAME, "host/app:3"].map(|name| name.replace("host/", "docker.io/host/"))
    );
    assert_eq!(machine.images().len(), 1);
    assert_eq!(machine.found(DOCKER_NAME), Some(first.manifest.clone()));
    // Both lists are empty.
    let (_, outcome) = import(&docker_archive(&made, none, &Value::Null));
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::InvalidManifest);
}

#[test]
fn docker_s_names_must_be_references() {
    let mut made = Made::default();
    let image = made.image("linux/amd64");
    for tag in ["", "App:1", "app:1 ", "app::1"] {
        let manifest = json!([saved(&image, json!([tag]))]);
        made.files.retain(|(path, _)| path != "manifest.json");
        made.file("manifest.json", manifest.to_string().as_bytes());
        assert_eq!(made.import(&ImportOptions::new()).1, Err(ErrorKind::InvalidReference), "{tag:?}");
    }
}

#[test]
fn layers_of_bazel_are_named_after_their_digests_and_their_compression() {
    // rules_oci: `HEX.tar.gz` under `blobs/`, and no `index.json`.
    let layers = [&b"one layer"[..], b"another layer"];
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::sha256(layer).to_string()).collect();
    let compressed = layers.map(gzip);
    let mut config = json!({ "architecture": "amd64", "os": "linux" });
    config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
    let config = config.to_string();
    let id = Digest::sha256(config.as_bytes());
    let paths = compressed.each_ref().map(|layer| path(&Digest::sha256(layer)) + ".tar.gz");
    let manifest = json!([{ "Config": path(&id), "RepoTags": ["app:1"], "Layers": paths }]).to_string();
    let mut archive = Archive::default();
    archive.files([(&*path(&id), config.as_bytes())]);
    archive.files(paths.iter().zip(&compressed).map(|(path, layer)| (&**path, &**layer)));
    archive.files([("manifest.json", manifest.as_bytes())]);
    let (machine, names) = import(&archive.finish());
    assert_eq!(names.unwrap(), [DOCKER_NAME]);
    let found = machine.store.find(DOCKER_NAME).unwrap().unwrap();
    let layers = machine.store.manifest(&found.manifest.digest).unwrap().layers;
    assert_eq!(found.id, id);
    let types: Vec<_> = layers.iter().map(|layer| &*layer.media_type).collect();
    assert_eq!(types, ["application/vnd.oci.image.layer.v1.tar+gzip"; 2]);
    let digests: Vec<_> = layers.iter().map(|layer| layer.digest.clone()).collect();
    assert_eq!(digests, compressed.each_ref().map(|layer| Digest::sha256(layer)));
}

#[test]
fn files_of_file_managers_are_skipped() {
    let mut made = Made::default();
    let image = made.image("linux/amd64");
    let clean = made.clone();
    for (path, _) in clean.files {
        // AppleDouble: what macOS notes about a file, beside it.
        let (folder, name) = path.rsplit_once('/').unwrap();
        made.file(&format!("{folder}/._{name}"), b"\0\x05\x16\x07\0\x02\0\0Mac OS X        ");
    }
    for path in [
        ".DS_Store",
        "._index.json",
        "._oci-layout",
        "blobs/.DS_Store",
        "blobs/._sha256",
        "blobs/sha256/.DS_Store",
        "blobs/sha256/Thumbs.db",
        "blobs/md5/d41d8cd98f00b204e9800998ecf8427e",
        "blobs/sha256/folder/file",
        "README",
    ] {
        made.file(path, b"\0\0\0\x01Bud1");
    }
    made.list(&image.descriptor, Some(DOCKER_NAME));
    let (machine, outcome) = made.import(&ImportOptions::new());
    assert_eq!(outcome.unwrap().names, [DOCKER_NAME]);
    assert_eq!(machine.blobs(), 3, "what no image needs is not kept");
    // A blob whose name is a digest must have that digest, needed or not.
    made.file(&path(&Digest::sha256(b"other")), b"content");
    let error =
        Machine::new("linux/amd64").store.import(&PullContext::new(), &made.archive()[..]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
}

/// A record of an extended header; its length counts itself.
fn pax(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (1..).find(|digits| (rest + digits).to_string().len() == *digits).unwrap() + rest;
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

#[test]
fn extended_headers_with_values_that_are_no_text_are_passed_over() {
    let mut made = Made::default();
    let image = made.image("linux/amd64");
    made.list(&image.descriptor, Some(DOCKER_NAME));
    let index = json!({ "schemaVersion": 2, "manifests": made.listed }).to_string();
    made.file("index.json", index.as_bytes());
    made.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    let mut archive = Archive::default();
    archive.entry(b'g', "pax_global_header", &pax("comment", b"\xff\xfe binary \0"));
    for (path, content) in &made.files {
        // As bsdtar of macOS writes them, before each file.
        let records = [
            pax("LIBARCHIVE.xattr.com.apple.provenance", b"AQIAPdHBxRhuqps"),
            pax("SCHILY.xattr.com.apple.provenance", b"\x01\x02\0\x3d\xd1\xc1\xc5\x18\x6e\xaa\x9b="),
            pax("SCHILY.xattr.com.apple.quarantine", b"a\nb\n\xff"),
            pax("mtime", b"1700000000.123456789"),
        ];
        archive.entry(b'x', "PaxHeader/file", &records.concat());
        archive.files([(&**path, &**content)]);
    }
    let (machine, names) = import(&archive.finish());
    assert_eq!(names.unwrap(), [DOCKER_NAME]);
    assert_eq!(machine.found(DOCKER_NAME), Some(image.manifest));
}

/// Entries of a layout's index that are no images, and whether they have a blob in the layout.
fn no_images(made: &mut Made) -> Vec<(&'static str, Value)> {
    let xml = made.blob("application/xml", b"<component/>");
    let missing = json!({
        "mediaType": "application/vnd.example+json", "digest": Digest::sha256(b"not there").as_str(), "size": 9,
    });
    let unknown = json!({ "mediaType": "application/xml", "digest": "blake3:0123456789abcdef", "size": 9 });
    let bom = made.blob("application/spdx+json", b"{}");
    let empty = made.blob("application/vnd.oci.empty.v1+json", b"{}");
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let artifact = json!({
        "schemaVersion": 2, "mediaType": manifest, "artifactType": "application/spdx+json", "config": empty,
        "layers": [bom], "subject": { "mediaType": manifest, "digest": Digest::sha256(b"s").as_str(), "size": 1 },
    });
    let artifact = made.blob(manifest, artifact.to_string().as_bytes());
    let helm_config = made.blob("application/vnd.cncf.helm.config.v1+json", br#"{"name":"chart"}"#);
    let chart = made.blob("application/vnd.cncf.helm.chart.content.v1.tar+gzip", b"chart");
    let old = json!({
        "mediaType": "application/vnd.oci.artifact.manifest.v1+json", "artifactType": "application/spdx+json",
        "blobs": [bom],
    });
    let old = made.blob("application/vnd.oci.artifact.manifest.v1+json", old.to_string().as_bytes());
    // buildkit's cache, `type=local`: an index of layers, and the same as a manifest.
    let layer = made.blob("application/vnd.oci.image.layer.v1.tar+gzip", b"cached layer");
    let cache_config =
        made.blob("application/vnd.buildkit.cacheconfig.v0", b"{\"layers\":[],\"records\":[]}");
    let cache = made.index(&[layer.clone(), cache_config.clone()]);
    let cache_manifest = json!({
        "schemaVersion": 2, "mediaType": manifest, "config": cache_config, "layers": [layer],
    });
    let cache_manifest = made.blob(manifest, cache_manifest.to_string().as_bytes());
    let untyped = |value: &Value| {
        let mut value = value.clone();
        value.as_object_mut().unwrap().remove("mediaType");
        value
    };
    let chart_manifest = json!({
        "schemaVersion": 2, "mediaType": manifest, "artifactType": "application/vnd.cncf.helm.config.v1+json",
        "config": helm_config, "layers": [chart],
    });
    let chart_manifest = made.blob(manifest, chart_manifest.to_string().as_bytes());
    let (untyped_xml, untyped_artifact) = (untyped(&xml), untyped(&artifact));
    vec![
        ("xml", xml),
        ("xml that is not there", missing),
        ("xml with a digest of an unknown kind", unknown),
        ("an artifact", artifact),
        ("an artifact of OCI 1.1's drafts", old),
        ("a chart", chart_manifest),
        ("a cache, as an index", cache),
        ("a cache, as a manifest", cache_manifest),
        ("xml without a media type", untyped_xml),
        ("an artifact without a media type", untyped_artifact),
    ]
}

#[test]
fn entries_that_are_no_image_do_not_refuse_the_layout() {
    let mut made = Made::default();
    let image = made.image("linux/amd64");
    let others = no_images(&mut made);
    for first in [false, true] {
        let mut made = made.clone();
        let image_entries = |made: &mut Made| made.list(&image.descriptor, Some(DOCKER_NAME));
        if first {
            image_entries(&mut made);
        }
        others.iter().for_each(|(_, other)| made.list(other, None));
        if !first {
            image_entries(&mut made);
        }
        let (machine, outcome) = made.import(&ImportOptions::new());
        assert_eq!(outcome.unwrap().names, [DOCKER_NAME]);
        assert_eq!(machine.images(), [(image.manifest.clone(), vec![DOCKER_NAME.to_owned()])]);
        assert_eq!(machine.blobs(), 3);
    }
    for (told, other) in &others {
        let mut alone = made.clone();
        alone.list(other, None);
        assert_eq!(alone.import(&ImportOptions::new()).1, Err(ErrorKind::InvalidManifest), "{told} alone");
    }
    // A name of what has no manifest may be any text.
    for (told, other) in others.iter().filter(|(told, _)| told.starts_with("xml")) {
        let mut made = made.clone();
        made.list(&image.descriptor, None);
        made.list(other, Some("no\timage\u{e4}"));
        let (_, outcome) = made.import(&ImportOptions::new());
        assert_eq!(outcome.unwrap().names, [image.manifest.to_string()], "{told}");
    }
}

#[test]
fn an_entry_without_a_media_type_is_read_by_its_content() {
    let mut made = Made::default();
    let images = [made.image("linux/amd64"), made.image("linux/arm64")];
    let index = made.index(&images.clone().map(|image| image.descriptor));
    for (entry, count) in [(&images[0].descriptor, 1), (&index, 2)] {
        let mut entry = entry.clone();
        entry.as_object_mut().unwrap().remove("mediaType");
        let mut made = made.clone();
        made.list(&entry, Some(DOCKER_NAME));
        let (machine, outcome) = made.import(&ImportOptions::new());
        assert_eq!(outcome.unwrap().names, [DOCKER_NAME]);
        assert_eq!(machine.images().len(), count);
        assert_eq!(machine.found(DOCKER_NAME), Some(images[0].manifest.clone()));
        let text = std::fs::read_to_string(machine.store.dir().join("index.json")).unwrap();
        assert!(text.contains("\"mediaType\":\"application/vnd.oci.image."), "{text}");
    }
}

#[test]
fn names_stay_as_they_are_written() {
    for name in ["v1", "alpine", "index.docker.io/library/app:1", "Any Text, of 7-bit ASCII~", "deadbeef"] {
        let mut made = Made::default();
        let image = made.image("linux/amd64");
        made.list(&image.descriptor, Some(name));
        let (machine, outcome) = made.import(&ImportOptions::new());
        assert_eq!(outcome.unwrap().names, [name]);
        assert_eq!(machine.images(), [(image.manifest.clone(), vec![name.to_owned()])]);
        let mut archive = Vec::new();
        machine.store.export(&PullContext::new(), name, &mut archive).unwrap();
        let other = Machine::new("linux/amd64");
        assert_eq!(other.store.import(&PullContext::new(), &archive[..]).unwrap(), [name]);
        assert_eq!(other.images(), machine.images());
        assert_eq!(machine.remove(name).names, [name]);
        assert_eq!(machine.blobs(), 0);
    }
}

#[test]
fn a_docker_image_without_layers_is_an_image() {
    for layers in [Value::Null, json!([])] {
        let config = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":null}}"#;
        let id = Digest::sha256(config.as_bytes());
        let file = format!("{}.json", id.hex());
        let manifest = json!([{ "Config": file, "RepoTags": ["app:1"], "Layers": layers }]).to_string();
        let mut archive = Archive::default();
        archive.files([(&*file, config.as_bytes()), ("manifest.json", manifest.as_bytes())]);
        let (machine, names) = import(&archive.finish());
        assert_eq!(names.unwrap(), [DOCKER_NAME]);
        assert_eq!(machine.store.find(DOCKER_NAME).unwrap().unwrap().id, id);
    }
}

#[test]
fn advice_is_for_where_it_happened() {
    let mut made = Made::default();
    let image = made.image("linux/amd64");
    made.list(&image.descriptor, Some(DOCKER_NAME));
    made.lose(&image.layer);
    let error = import(&made.archive()).1.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(!error.to_string().contains("pushed"), "{error}");
    let store = Machine::new("linux/amd64").store;
    let error = store.export(&PullContext::new(), "no/such", std::io::sink()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(!error.to_string().contains("pushed"), "{error}");
    made.file(&path(&Digest::sha256(b"other")), b"content");
    let error = import(&made.archive()).1.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
    assert!(!error.to_string().contains("on the way"), "{error}");
    let cx = PullContext::new().with_timeout(std::time::Duration::ZERO);
    let error = store.import(&cx, &made.archive()[..]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!error.to_string().contains("network"), "{error}");
}
