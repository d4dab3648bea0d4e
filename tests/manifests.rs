//! Manifests, indexes and configs: the parsed values, and documents that are refused.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use oci_puller::ErrorKind;
use oci_puller::image::{Descriptor, Digest, Document, ImageConfig, Index, Manifest, Platform};
use oci_puller::image::{MAX_DESCRIPTORS, MAX_DOCUMENT_BYTES, media_type};
use proptest::prelude::*;

const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const NOTHING: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const HELLO: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

fn descriptor(digest: &str, size: i128) -> String {
    with(digest, size, "")
}

/// A descriptor with `more` fields.
fn with(digest: &str, size: i128, more: &str) -> String {
    format!(r#"{{"mediaType":"application/x","digest":"{digest}","size":{size}{more}}}"#)
}

fn manifest_with(more: &str) -> String {
    format!(r#"{{"schemaVersion":2,"config":{},"layers":[{}]{more}}}"#, descriptor(A, 1), descriptor(B, 2))
}

fn manifest_of(layers: &[String]) -> String {
    format!(r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#, descriptor(A, 1), layers.join(","))
}

fn index_of(manifests: &[String]) -> String {
    format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, manifests.join(","))
}

fn manifest(json: &str) -> Manifest {
    match Document::parse(None, json.as_bytes()).unwrap() {
        Document::Manifest(manifest) => manifest,
        Document::Index(_) => panic!("a manifest became an index"),
    }
}

fn index(json: &str) -> Index {
    match Document::parse(None, json.as_bytes()).unwrap() {
        Document::Index(index) => index,
        Document::Manifest(_) => panic!("an index became a manifest"),
    }
}

#[track_caller]
fn assert_refused(json: &str, kind: ErrorKind, said: &str) {
    let error = Document::parse(None, json.as_bytes()).unwrap_err();
    assert_eq!(error.kind(), kind, "{json}: {error}");
    assert!(error.message().contains(said), "{said:?} is not said of {json}: {error}");
    assert!(!error.is_retryable());
}

#[test]
fn a_manifest_keeps_all_that_was_said() {
    let layer = with(
        HELLO,
        5,
        r#","urls":["https://a.example/b?c=d"],"data":"aGVsbG8=","artifactType":"text/x","annotations":{"k":"v"}"#,
    );
    let json = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","artifactType":"application/y","config":{},"layers":[{layer}],
            "subject":{},"annotations":{{"a":"b","A":"c"}},"unknown":[{{"x":null}},1.5,-1,true,"s"]}}"#,
        media_type::OCI_MANIFEST,
        descriptor(A, 1),
        descriptor(B, 2),
    );
    let manifest = manifest(&json);
    assert_eq!(manifest.media_type, media_type::OCI_MANIFEST);
    assert_eq!(manifest.artifact_type.as_deref(), Some("application/y"));
    assert_eq!(manifest.config, Descriptor::new("application/x", Digest::parse(A).unwrap(), 1));
    assert_eq!(manifest.subject.as_ref().map(|it| it.digest.as_str()), Some(B));
    assert_eq!(manifest.annotations["A"], "c");
    let layer = &manifest.layers[0];
    assert_eq!(layer.urls, ["https://a.example/b?c=d"]);
    assert_eq!(layer.data.as_deref(), Some(&b"hello"[..]));
    assert_eq!(layer.artifact_type.as_deref(), Some("text/x"));
    assert_eq!(layer.annotations["k"], "v");
}

#[test]
fn an_index_keeps_its_platforms() {
    let platform = r#","platform":{"os":"windows","architecture":"arm","variant":"v7","os.version":"10","os.features":["f"],"features":["sse4"]}"#;
    let index = index(&index_of(&[with(A, 1, platform)]));
    let platform = index.manifests[0].platform.as_ref().unwrap();
    assert_eq!(platform.to_string(), "windows(10+f)/arm/v7");
    assert_eq!(index.media_type, media_type::OCI_INDEX);
}

#[test]
fn repeated_layers_stay_in_place_and_are_fetched_once() {
    let layers = [descriptor(B, 2), descriptor(HELLO, 5), descriptor(B, 2), descriptor(NOTHING, 0)];
    let manifest = manifest(&manifest_of(&layers));
    assert_eq!(manifest.layers.len(), 4);
    assert_eq!(manifest.layers[0], manifest.layers[2]);
    let blobs: Vec<&str> = manifest.blobs().iter().map(|blob| blob.digest.as_str()).collect();
    assert_eq!(blobs, [A, B, HELLO, NOTHING]);
    assert_eq!(manifest.total_size(), 8);
}

#[test]
fn errors_name_the_field() {
    let table = [
        ("".to_owned(), "not JSON"),
        ("<html>".to_owned(), "not JSON"),
        (manifest_with("") + "x", "not JSON"),
        ("[]".to_owned(), "a manifest or an index"),
        ("null".to_owned(), "a manifest or an index"),
        ("{}".to_owned(), "schemaVersion: is missing"),
        (r#"{"schemaVersion":2}"#.to_owned(), "config: is missing"),
        (r#"{"schemaVersion":3,"manifests":[]}"#.to_owned(), "schemaVersion: is 3"),
        (r#"{"schemaVersion":"2","manifests":[]}"#.to_owned(), "schemaVersion: invalid type"),
        (format!(r#"{{"schemaVersion":2,"layers":[{}]}}"#, descriptor(A, 1)), "config: is missing"),
        (manifest_with(r#","annotations":{"a":1}"#), "annotations: invalid type"),
        (manifest_with(r#","schemaVersion":2"#), r#"the key "schemaVersion" stands twice"#),
        (manifest_with(r#","Config":{}"#), r#""Config" differs from "config" only in case"#),
        (manifest_with(r#","layerſ":[]"#), r#"differs from "layers" only in case"#),
        (manifest_with(r#","x":1,"x":2"#), r#"the key "x" stands twice"#),
        (manifest_with(r#","x":[{"y":{"z":1,"z":2}}]"#), r#"the key "z" stands twice"#),
        (manifest_with(r#","annotations":{"a":"1","a":"2"}"#), r#"annotations: the key "a" stands twice"#),
        (manifest_with(r#","\u0078":1,"x":2"#), r#"the key "x" stands twice"#),
        (manifest_with(&format!(r#","x":{}{}"#, "[".repeat(33), "]".repeat(33))), "deeper than 32"),
        (
            format!(r#"{{"schemaVersion":2,"config":null,"layers":[{}]}}"#, descriptor(A, 1)),
            "config: is missing",
        ),
        (
            manifest_with(&format!(r#","manifests":[{}]"#, descriptor(A, 1))),
            "manifests: only an index has them",
        ),
        (manifest_with(r#","subject":"x""#), "subject: invalid type"),
        (index_of(&["1.5".to_owned()]), "manifests[0]: invalid type"),
        (index_of(&[with(A, 1, r#","platform":{"os":1}"#)]), "manifests[0].platform.os: invalid type"),
        (index_of(&[descriptor(A, 1).replace(":1}", r#":"1"}"#)]), "manifests[0].size: invalid type"),
        (index_of(&[with(A, 1, r#","Size":1"#)]), r#"manifests[0]: the key "Size" differs"#),
        (index_of(&[with(A, 1, r#","size":1"#)]), r#"manifests[0]: the key "size" stands twice"#),
        (manifest_of(&[with(B, 2, r#","urls":["no url"]"#)]), "layers[0].urls: \"no url\" is no URL"),
        (manifest_of(&[descriptor("sha256:abc", 1)]), "layers[0].digest: \"sha256:abc\""),
        (manifest_of(&[descriptor("", 1)]), "layers[0].digest: is missing"),
        (manifest_of(&[descriptor(B, 2).replace("application/x", "")]), "layers[0].mediaType: is missing"),
        (manifest_of(&[descriptor(B, 2), descriptor(A, -1)]), "layers[1].size: -1 is negative"),
        (manifest_of(&[descriptor(B, 1 << 63)]), "layers[0].size: 9223372036854775808 is more"),
        (manifest_of(&[descriptor(B, 1 << 70)]), "layers[0].size: invalid type"),
        (manifest_of(&[descriptor(B, i128::from(i64::MAX))]), "all sizes together"),
        (manifest_of(&[descriptor(B, 2), descriptor(B, 3)]), "layers[1].size: is 3, but was 2"),
        (manifest_of(&[descriptor(B, 0)]), "layers[0].size: is 0"),
        (manifest_of(&[with(HELLO, 5, r#","data":"aGVsbG8""#)]), "layers[0].data: is not base64"),
        (manifest_of(&[with(HELLO, 4, r#","data":"aGVsbG8=""#)]), "layers[0].data: is 5 bytes"),
        (manifest_of(&[with(B, 5, r#","data":"aGVsbG8=""#)]), "layers[0].data: does not hash"),
        (manifest_of(&["1.5".to_owned()]), "layers[0]: invalid type"),
    ];
    for (json, said) in table {
        assert_refused(&json, ErrorKind::InvalidManifest, said);
    }
}

#[test]
fn an_optional_field_that_is_null_or_empty_is_absent() {
    let bare = manifest(&format!(r#"{{"schemaVersion":2,"config":{}}}"#, descriptor(A, 1)));
    assert!(bare.layers.is_empty(), "an image may have no layers");
    for more in [
        r#","layers":[]"#,
        r#","layers":null,"manifests":null,"subject":null,"annotations":null,"artifactType":null"#,
        r#","manifests":[],"subject":{},"annotations":{},"artifactType":"","mediaType":"""#,
    ] {
        let json = format!(r#"{{"schemaVersion":2,"config":{}{more}}}"#, descriptor(A, 1));
        assert_eq!(manifest(&json), bare, "{more}");
    }
    let empty = Index::new(Vec::new());
    for more in [
        r#""manifests":[]"#,
        r#""manifests":[],"layers":[],"config":null,"subject":{}"#,
        r#""mediaType":"application/vnd.oci.image.index.v1+json","manifests":null"#,
        r#""mediaType":"application/vnd.oci.image.index.v1+json""#,
    ] {
        assert_eq!(index(&format!(r#"{{"schemaVersion":2,{more}}}"#)), empty, "{more}");
    }
    let plain = index(&index_of(&[with(A, 1, r#","platform":{"os":"o","architecture":"a"}"#)]));
    for more in [
        r#","platform":{"os":"o","architecture":"a","variant":null,"os.version":"","os.features":null}"#,
        r#","platform":{"os":"o","architecture":"a"},"urls":null,"data":null,"annotations":null"#,
        r#","platform":{"os":"o","architecture":"a"},"urls":[],"data":"","annotations":{"a":null},"artifactType":"""#,
    ] {
        assert_eq!(index(&index_of(&[with(A, 1, more)])), plain, "{more}");
    }
    for platform in ["null", "{}", r#"{"os":"","architecture":null}"#] {
        let entry = with(A, 1, &format!(r#","platform":{platform}"#));
        assert_eq!(index(&index_of(&[entry])).manifests[0].platform, None, "{platform}");
    }
}

#[test]
fn a_media_type_may_have_any_form() {
    let sigstore = "application/vnd.dev.sigstore.bundle+json;version=0.2";
    for media_type in [sigstore, "foo/.bar", "no slash", &"x".repeat(1000)] {
        let layer = descriptor(B, 2).replace("application/x", media_type);
        assert_eq!(manifest(&manifest_of(&[layer])).layers[0].media_type, media_type);
        let typed = manifest_with(&format!(r#","artifactType":"{media_type}""#));
        assert_eq!(manifest(&typed).artifact_type.as_deref(), Some(media_type));
    }
}

#[test]
fn an_entry_of_an_index_that_cannot_be_used_is_left_out() {
    let amd64 = r#","platform":{"os":"linux","architecture":"amd64"}"#;
    let arm64 = r#","platform":{"os":"linux","architecture":"arm64"}"#;
    let types = |entry: String| entry.replace("application/x", media_type::OCI_MANIFEST);
    let wanted = Platform::new("linux", "amd64");
    for odd in [
        with("sha384:aa", 1, arm64),
        with("sha256:abc", 1, arm64),
        with(B, -1, arm64),
        with(B, 1 << 63, arm64),
        with(B, 0, arm64),
        with(B, 1, r#","platform":{"os":"linux"}"#),
        with(B, 1, r#","platform":{"architecture":"arm64","os":null}"#),
        with(B, 1, &format!(r#"{arm64},"urls":["no url"]"#)),
        with(B, 1, &format!(r#"{arm64},"data":"!""#)),
        format!(r#"{{"mediaType":"x/y","digest":"{B}"{arm64}}}"#),
        format!(r#"{{"mediaType":"","digest":"{B}","size":1{arm64}}}"#),
        "{}".to_owned(),
    ] {
        let index = index(&index_of(&[types(odd.clone()), types(with(A, 1, amd64))]));
        assert_eq!(index.manifests.len(), 1, "{odd}");
        assert_eq!(wanted.choose(&index).unwrap().digest.as_str(), A, "{odd}");
    }

    // Told if it is the one for the platform.
    let lost = index(&index_of(&[types(with("sha384:aa", 1, amd64)), types(with(A, 1, arm64))]));
    let error = wanted.choose(&lost).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("manifests[0].digest: digest algorithm sha384"), "{error}");
    let other = wanted.choose(&index(&index_of(&[types(with("sha384:aa", 1, arm64))]))).unwrap_err();
    assert_eq!(other.kind(), ErrorKind::NoMatchingPlatform);
    assert!(other.message().contains("there is linux/arm64"), "{other}");
}

#[test]
fn a_subject_that_cannot_be_read_is_absent() {
    for subject in ["{}", r#"{"mediaType":"x/y","size":1,"digest":"sha384:aa"}"#, r#"{"digest":"x"}"#] {
        assert_eq!(manifest(&manifest_with(&format!(r#","subject":{subject}"#))).subject, None, "{subject}");
    }
}

#[test]
fn the_id_is_the_config_s_digest_or_the_manifest_s_where_the_config_is_no_image_config() {
    let own = Digest::parse(NOTHING).unwrap();
    let id_of = |media_type: &str, config: &str| {
        let config = Descriptor::new(config, Digest::parse(A).unwrap(), 1);
        Manifest::new(config, Vec::new()).with_media_type(media_type).image_id(&own).to_string()
    };
    for (media_type, config, id) in [
        (media_type::OCI_MANIFEST, media_type::OCI_CONFIG, A),
        (media_type::DOCKER_MANIFEST, media_type::DOCKER_CONFIG, A),
        (media_type::DOCKER_MANIFEST, "application/octet-stream", A),
        (media_type::OCI_MANIFEST, "application/octet-stream", NOTHING),
        (media_type::OCI_MANIFEST, "application/vnd.oci.empty.v1+json", NOTHING),
        (media_type::OCI_MANIFEST, "application/vnd.cncf.helm.config.v1+json", NOTHING),
    ] {
        assert_eq!(id_of(media_type, config), id, "{media_type} with {config}");
    }
}

#[test]
fn an_unknown_digest_algorithm_is_unsupported() {
    let json = manifest_of(&[descriptor("sha384:aa", 1)]);
    assert_refused(&json, ErrorKind::Unsupported, "layers[0].digest: digest algorithm sha384");
}

#[test]
fn media_types_must_agree() {
    use media_type::*;
    const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let ok: Result<&str, ErrorKind> = Ok("");
    // The descriptor's, the header's, the body's, and what comes of it for a manifest.
    let table = [
        (None, None, None, ok),
        (None, Some(OCI_MANIFEST), None, ok),
        (None, Some("application/vnd.OCI.image.manifest.v1+json; charset=utf-8"), Some(OCI_MANIFEST), ok),
        (None, Some("application/json"), Some(DOCKER_MANIFEST), ok),
        (None, Some("text/plain; charset=utf-8"), None, ok),
        (Some(DOCKER_MANIFEST), Some(DOCKER_MANIFEST), Some(DOCKER_MANIFEST), ok),
        (None, Some(OCI_MANIFEST), Some(DOCKER_MANIFEST), Err(ErrorKind::InvalidManifest)),
        (Some(DOCKER_MANIFEST), Some(OCI_MANIFEST), None, Err(ErrorKind::InvalidManifest)),
        (Some(DOCKER_MANIFEST), None, Some(OCI_MANIFEST), Err(ErrorKind::InvalidManifest)),
        (None, Some(OCI_INDEX), None, Err(ErrorKind::InvalidManifest)),
        (None, None, Some(DOCKER_MANIFEST_LIST), Err(ErrorKind::InvalidManifest)),
        (None, Some("text/html"), None, Err(ErrorKind::Unsupported)),
        (None, None, Some("application/vnd.example+json"), Err(ErrorKind::Unsupported)),
        (None, Some(SCHEMA_1), None, Err(ErrorKind::Unsupported)),
        (Some(SCHEMA_1), None, None, Err(ErrorKind::Unsupported)),
    ];
    for (announced, header, body, expected) in table {
        let json = manifest_with(&body.map_or_else(String::new, |it| format!(r#","mediaType":"{it}""#)));
        let announced = announced.map(|it| Descriptor::new(it, Digest::parse(A).unwrap(), 1));
        let result = match &announced {
            Some(descriptor) => Document::parse_described(descriptor, header, json.as_bytes()),
            None => Document::parse(header, json.as_bytes()),
        };
        let result = result.map(|_| "").map_err(|error| error.kind());
        assert_eq!(result, expected, "{announced:?} {header:?} {body:?}");
    }
}

#[test]
fn an_index_in_the_clothes_of_a_manifest_is_refused_and_the_other_way_round() {
    let both = manifest_with(&format!(r#","manifests":[{}]"#, descriptor(A, 1)));
    for media_type in [media_type::OCI_MANIFEST, media_type::OCI_INDEX] {
        let error = Document::parse(Some(media_type), both.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidManifest, "{media_type}");
    }
}

#[test]
fn schema_1_is_explained() {
    let json = r#"{"schemaVersion":1,"name":"a","tag":"b","fsLayers":[{"blobSum":"x"}],"history":[],"signatures":[]}"#;
    assert_refused(json, ErrorKind::Unsupported, "push the image again with a current tool");
}

#[test]
fn lists_and_documents_are_capped() {
    let layers = vec![descriptor(B, 2); MAX_DESCRIPTORS];
    assert_eq!(manifest(&manifest_of(&layers)).layers.len(), MAX_DESCRIPTORS);
    let layers = vec![descriptor(B, 2); MAX_DESCRIPTORS + 1];
    assert_refused(&manifest_of(&layers), ErrorKind::InvalidManifest, "layers: more than 4096");
    assert_refused(&index_of(&layers), ErrorKind::InvalidManifest, "manifests: more than 4096");

    let padded = manifest_with("") + &" ".repeat(MAX_DOCUMENT_BYTES);
    assert_refused(&padded, ErrorKind::InvalidManifest, "bytes are more than");
    let keys: Vec<String> = (0..5000).map(|number| format!(r#""{number}":0"#)).collect();
    let json = manifest_with(&format!(r#","x":{{{}}}"#, keys.join(",")));
    assert_refused(&json, ErrorKind::InvalidManifest, "more than 4096 fields");
}

#[test]
fn messages_do_not_repeat_the_document() {
    let json = manifest_with(&format!(r#","subject":"{}""#, "x".repeat(1 << 20)));
    let error = Document::parse(None, json.as_bytes()).unwrap_err();
    assert!(error.message().len() < 1000, "{}", error.message().len());
}

#[test]
fn a_config_has_platform_layers_and_run_settings() {
    let json = format!(
        r#"{{"os":"linux","architecture":"arm","variant":"v6","created":"2015-10-31T22:22:56Z",
            "config":{{"User":"1000:0","ExposedPorts":{{"80/tcp":{{}},"53/udp":null}},"Env":["A=b"],
                "Entrypoint":["/bin/app"],"Cmd":["--help"],"Volumes":{{"/data":{{}}}},"WorkingDir":"/srv",
                "Labels":{{"k":"v"}},"StopSignal":"SIGINT","Healthcheck":{{"Test":null}}}},
            "history":[{{"created_by":"sh","empty_layer":true}},{{"comment":"c","author":"a"}}],
            "rootfs":{{"type":"layers","diff_ids":["{A}","{A}"]}}}}"#
    );
    let config = ImageConfig::parse(json.as_bytes()).unwrap();
    assert_eq!(config.platform.to_string(), "linux/arm/v6");
    assert_eq!(config.diff_ids.len(), 2);
    assert_eq!(config.user.as_deref(), Some("1000:0"));
    assert_eq!(config.exposed_ports, ["80/tcp", "53/udp"]);
    assert_eq!((&*config.env, &*config.volumes), (&["A=b".to_owned()][..], &["/data".to_owned()][..]));
    assert_eq!((&*config.entrypoint[0], &*config.cmd[0]), ("/bin/app", "--help"));
    assert_eq!(config.working_dir.as_deref(), Some("/srv"));
    assert_eq!(config.stop_signal.as_deref(), Some("SIGINT"));
    assert_eq!(config.labels["k"], "v");
    assert_eq!(config.created.as_deref(), Some("2015-10-31T22:22:56Z"));
    assert!(config.history[0].empty_layer && !config.history[1].empty_layer);
    assert_eq!(config.history[1].author.as_deref(), Some("a"));

    let absent = r#"{"os":null,"config":{"User":"","Env":null,"Volumes":null},"history":null,"rootfs":null}"#;
    for json in ["{}", absent, r#"{"config":null,"rootfs":{"diff_ids":null},"created":null}"#] {
        assert_eq!(ImageConfig::parse(json.as_bytes()).unwrap(), ImageConfig::default(), "{json}");
    }
}

#[test]
fn a_config_is_read_as_strictly_as_a_manifest() {
    let table = [
        ("", "not JSON"),
        ("[]", "an image config"),
        (r#"{"os":1}"#, "os: invalid type"),
        (r#"{"os":"a","os":"b"}"#, "stands twice"),
        (r#"{"OS":"a"}"#, "only in case"),
        (r#"{"rootfs":{"diff_ids":["x"]}}"#, "rootfs.diff_ids: \"x\" is no digest"),
        (r#"{"config":{"User":123}}"#, "config.User: invalid type"),
        (r#"{"config":{"Volumes":["/data"]}}"#, "config.Volumes: invalid type"),
        (r#"{"config":{"Env":[7353]}}"#, "config.Env[0]: invalid type"),
        (r#"{"config":{"Env":[],"Env":[]}}"#, "stands twice"),
        (r#"{"config":{"Volumes":{"/a":{},"/a":{}}}}"#, "stands twice"),
        (r#"{"history":"none"}"#, "history: invalid type"),
    ];
    for (json, said) in table {
        let error = ImageConfig::parse(json.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidManifest, "{json}");
        assert!(error.message().contains(said), "{json}: {error}");
    }
    let unknown = ImageConfig::parse(br#"{"rootfs":{"diff_ids":["sha384:aa"]}}"#).unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Unsupported);
}

fn any_descriptor() -> impl Strategy<Value = Descriptor> {
    let text = "[a-zA-Z0-9 \"\\\\é]{0,6}";
    let platform = ("[a-z]{1,5}", "[a-z]{1,5}", proptest::option::of("v[0-9]"));
    let extras = (proptest::option::of(platform), any::<bool>(), any::<bool>());
    let annotations = proptest::collection::btree_map(text, text, 0..3);
    (proptest::collection::vec(any::<u8>(), 0..9), extras, annotations).prop_map(
        |(bytes, (platform, inline, mirrored), annotations)| {
            let mut it = Descriptor::new("a/b", Digest::sha256(&bytes), bytes.len() as u64);
            it.platform = platform.map(|(os, architecture, variant)| {
                let mut platform = Platform::new(os, architecture);
                platform.variant = variant;
                platform
            });
            it.data = Some(bytes).filter(|bytes| inline && !bytes.is_empty());
            it.urls = if mirrored { vec!["https://a.example/%20".to_owned()] } else { Vec::new() };
            it.annotations = annotations;
            it
        },
    )
}

prop_compose! {
    fn any_manifest()(
        config in any_descriptor(),
        layers in proptest::collection::vec(any_descriptor(), 0..4),
        subject in proptest::option::of(any_descriptor()),
    ) -> Manifest {
        let annotations = config.annotations.clone();
        let media_type = media_type::DOCKER_MANIFEST.to_owned();
        let mut manifest = Manifest::new(config, layers).with_media_type(media_type).with_artifact_type("c/d");
        manifest.subject = subject;
        manifest.annotations = annotations;
        manifest
    }
}

proptest! {
    #[test]
    fn written_documents_read_back_unchanged(manifest in any_manifest()) {
        let read = Document::parse(None, &manifest.to_json()).unwrap();
        prop_assert_eq!(read, Document::Manifest(manifest.clone()));

        let media_type = media_type::OCI_INDEX.to_owned();
        let Manifest { artifact_type, layers, subject, annotations, .. } = manifest;
        let mut index = Index::new(layers).with_media_type(media_type);
        index.artifact_type = artifact_type;
        index.subject = subject;
        index.annotations = annotations;
        prop_assert_eq!(Document::parse(None, &index.to_json()).unwrap(), Document::Index(index));
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Document::parse(None, &bytes);
        let _ = ImageConfig::parse(&bytes);
    }

    #[test]
    fn no_cut_or_changed_manifest_panics(at in 0_usize..400, byte in any::<u8>()) {
        let whole = manifest_with(r#","annotations":{"a":"b"},"x":[1,{"y":null}]"#).into_bytes();
        let at = at.min(whole.len() - 1);
        prop_assert!(Document::parse(None, &whole[..at]).is_err());
        let mut changed = whole;
        changed[at] = byte;
        let _ = Document::parse(None, &changed);
    }
}
