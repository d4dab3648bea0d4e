//! Platforms: how they are written, and which image of an index serves which machine.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use oci_puller::ErrorKind;
use oci_puller::image::{Descriptor, Digest, Document, Index, Platform};
use proptest::prelude::*;

fn platform(text: &str) -> Platform {
    Platform::parse(text).unwrap()
}

#[test]
fn platforms_are_read_under_all_their_names() {
    let host = Platform::host();
    let table = [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("Linux/AMD64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64/v8"),
        ("linux/arm", "linux/arm"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/armhf", "linux/arm"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/i386", "linux/386"),
        ("macos/arm64", "darwin/arm64"),
        ("wasip1/wasm", "wasip1/wasm"),
        ("linux", &format!("linux/{}", host.architecture)),
        ("s390x", &format!("{}/s390x", host.os)),
        ("windows(10.0.17763+win32k)/amd64", "windows(10.0.17763+win32k)/amd64"),
        ("linux(+a%2Fb)/amd64", "linux(+a%2Fb)/amd64"),
    ];
    for (typed, shown) in table {
        assert_eq!(platform(typed).to_string(), shown, "{typed}");
    }
}

#[test]
fn what_is_no_platform_is_refused_with_its_text() {
    let table = [
        "",
        "/",
        "linux/",
        "linux//v7",
        "linux/arm/v7/x",
        "any",
        "v7",
        "*/*",
        "linux/*",
        "linux:amd64",
        "linux(/amd64",
        "linux)/amd64",
        "linux(++)/amd64",
        "linux(%zz)/amd64",
        "linux(%é)/amd64",
        "linux/a b",
    ];
    for typed in table {
        let error = Platform::parse(typed).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{typed}");
        assert!(error.message().starts_with(&format!("{typed:?}")), "{error}");
    }
}

#[test]
fn default_variants_equal_no_variant() {
    for (one, other) in [
        ("linux/arm64", "linux/arm64/v8"),
        ("linux/arm64/v9", "linux/arm64/v9.0"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/amd64", "linux/amd64/v1"),
    ] {
        assert_eq!(platform(one).normalized(), platform(other).normalized(), "{one}");
    }
}

#[test]
fn older_variants_serve_in_the_order_of_containerd() {
    // What is wanted, and what serves it, the best first.
    let table: [(&str, &[&str]); 11] = [
        ("linux/amd64", &["linux/amd64", "linux/386"]),
        ("linux/amd64/v3", &["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"]),
        ("linux/386", &["linux/386"]),
        ("linux/arm/v5", &["linux/arm/v5"]),
        ("linux/arm", &["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        ("linux/arm/v8", &["linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        ("linux/arm64", &["linux/arm64", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        (
            "linux/arm64/v8.2",
            &[
                "linux/arm64/v8.2",
                "linux/arm64/v8.1",
                "linux/arm64",
                "linux/arm/v8",
                "linux/arm/v7",
                "linux/arm/v6",
                "linux/arm/v5",
            ],
        ),
        (
            "linux/arm64/v9.1",
            &[
                "linux/arm64/v9.1",
                "linux/arm64/v9",
                "linux/arm64/v8.6",
                "linux/arm64/v8.5",
                "linux/arm64/v8.2",
                "linux/arm64/v8.1",
                "linux/arm64",
                "linux/arm/v8",
                "linux/arm/v7",
                "linux/arm/v6",
                "linux/arm/v5",
            ],
        ),
        ("linux/s390x", &["linux/s390x"]),
        ("windows(10.0.17763.1)/amd64", &["windows(10.0.17763.99)/amd64", "windows/amd64"]),
    ];
    let mut all: Vec<Platform> =
        table.iter().flat_map(|(_, serving)| *serving).map(|text| platform(text).normalized()).collect();
    all.push(platform("windows(10.0.20348)/amd64"));
    all.push(platform("linux(+gpu)/amd64"));
    all.sort_by_key(Platform::to_string);
    all.dedup();
    for (wanted, serving) in table {
        let wanted = platform(wanted);
        let mut served: Vec<_> =
            all.iter().filter_map(|it| wanted.preference(it).map(|preference| (preference, it))).collect();
        served.sort_by_key(|(preference, _)| *preference);
        let served: Vec<String> = served.iter().map(|(_, it)| it.to_string()).collect();
        let expected: Vec<String> =
            serving.iter().map(|text| platform(text).normalized().to_string()).collect();
        assert_eq!(served, expected, "{wanted}");
    }
}

/// An index with an entry for each platform; a `-` has none.
fn index(platforms: &[&str]) -> Index {
    let entries: Vec<String> = platforms
        .iter()
        .enumerate()
        .map(|(number, text)| {
            let digest = Digest::sha256(format!("{number}").as_bytes());
            let platform = match *text {
                "-" => String::new(),
                text => {
                    let Platform { os, architecture, variant, .. } = platform(text);
                    let variant = variant.unwrap_or_default();
                    format!(
                        r#","platform":{{"os":"{os}","architecture":"{architecture}","variant":"{variant}"}}"#
                    )
                }
            };
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":7{platform}}}"#
            )
        })
        .collect();
    let json = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
    match Document::parse(None, json.as_bytes()).unwrap() {
        Document::Index(index) => index,
        Document::Manifest(_) => panic!("an index became a manifest"),
    }
}

fn position(index: &Index, chosen: &Descriptor) -> usize {
    index.manifests.iter().position(|entry| entry == chosen).unwrap()
}

#[test]
fn the_best_entry_is_chosen_and_the_first_of_equals() {
    // What is wanted, what there is, which is chosen.
    let table: [(&str, &[&str], usize); 8] = [
        ("linux/amd64", &["linux/arm64", "linux/amd64", "linux/amd64"], 1),
        ("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6", "linux/amd64"], 1),
        ("linux/arm/v7", &["linux/arm/v6", "linux/arm"], 1),
        ("linux/arm/v6", &["linux/arm/v7", "linux/arm/v5"], 1),
        ("linux/arm64", &["linux/arm/v7", "linux/arm64/v8"], 1),
        ("linux/amd64", &["linux/386", "linux/amd64/v2"], 0),
        ("linux/amd64", &["-", "linux/386"], 1),
        ("linux/amd64", &["linux/arm64", "-", "-"], 1),
    ];
    for (wanted, there, chosen) in table {
        let index = index(there);
        let best = platform(wanted).choose(&index).unwrap();
        assert_eq!(position(&index, best), chosen, "{wanted} of {there:?}");
    }
}

#[test]
fn what_is_neither_manifest_nor_index_is_never_chosen() {
    let mut index = index(&["-", "linux/amd64"]);
    for entry in &mut index.manifests {
        entry.media_type = "application/vnd.example+json".to_owned();
    }
    assert!(platform("linux/amd64").candidates(&index).is_empty());
}

#[test]
fn no_match_lists_what_there_is() {
    let error = platform("linux/s390x").choose(&index(&["linux/amd64", "linux/arm/v6"])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoMatchingPlatform);
    assert_eq!(error.message(), "nothing for linux/s390x; there is linux/amd64, linux/arm/v6");

    let many: Vec<String> = (1..100).map(|number| format!("os{number}/amd64")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let error = platform("linux/s390x").choose(&index(&many)).unwrap_err();
    assert!(error.message().ends_with("os16/amd64, …"), "{error}");

    let error = platform("linux/s390x").choose(&index(&[])).unwrap_err();
    assert!(error.message().ends_with("there is nothing at all"), "{error}");
}

#[test]
fn this_machine_serves_itself() {
    let host = Platform::host();
    assert!(host.preference(&host).is_some());
    assert_eq!(platform(&host.to_string()), host);
}

proptest! {
    #[test]
    fn what_is_shown_reads_back_as_the_same(
        text in "[a-z]{1,5}(\\([0-9.]{0,4}(\\+[a-z]{1,3}){0,2}\\))?/[a-z0-9_]{1,6}(/v[0-9]{1,3})?",
    ) {
        let parsed = platform(&text);
        prop_assert_eq!(platform(&parsed.to_string()).normalized(), parsed.normalized());
        prop_assert!(parsed.preference(&parsed).is_some());
    }

    #[test]
    fn nothing_that_is_typed_panics(text in "\\PC*|[a-z0-9()+%/.]{0,20}|(arm64|amd64|arm)/v[0-9.]{0,9}") {
        if let Ok(parsed) = Platform::parse(&text) {
            let _ = parsed.preference(&Platform::host());
        }
    }
}
