//! The responses of a healthy registry.

use oci_puller::image::Digest;
use oci_puller::testing::Registry;
use oci_puller::testing::images::ImageBuilder;

use crate::{REPOSITORY, client, layer, layer_path, manifest_path, registry};

#[test]
fn an_image_is_served_by_tag_and_by_digest() {
    let registry = Registry::start().unwrap();
    for image in [
        ImageBuilder::new("a/b").layer(10).platforms(["linux/amd64", "linux/arm64"]).nested(1).build(),
        ImageBuilder::new("c").layer(10).docker().build(),
    ] {
        let reference = registry.push(&image, "v1");
        assert_eq!(reference, format!("{}/{}:v1", registry.host(), image.repository()));
        let mut client = client(&registry);
        let root = client.get(&format!("/v2/{}/manifests/v1", image.repository())).unwrap();
        assert_eq!((root.status, &*root.body), (200, image.manifest_bytes()));
        for part in image.documents() {
            let answer =
                client.get(&format!("/v2/{}/manifests/{}", image.repository(), part.digest)).unwrap();
            assert_eq!((answer.status, &*answer.body), (200, &*part.data));
            assert_eq!(answer.header("content-type"), Some(&*part.media_type));
            assert_eq!(answer.header("docker-content-digest"), Some(part.digest.as_str()));
        }
        for part in image.blobs() {
            let answer = client.get(&format!("/v2/{}/blobs/{}", image.repository(), part.digest)).unwrap();
            assert_eq!((answer.status, &*answer.body), (200, &*part.data));
        }
    }
}

#[test]
fn a_missing_item_is_named_in_the_error() {
    let (registry, image) = registry();
    let digest = image.digest();
    for (path, code) in [
        (format!("/v2/{REPOSITORY}/manifests/v9"), "MANIFEST_UNKNOWN"),
        ("/v2/else/manifests/latest".to_owned(), "MANIFEST_UNKNOWN"),
        (format!("/v2/{REPOSITORY}/blobs/{digest}"), "BLOB_UNKNOWN"),
        ("/elsewhere".to_owned(), "NOT_FOUND"),
    ] {
        let answer = client(&registry).get(&path).unwrap();
        assert_eq!((answer.status, &answer.json()["errors"][0]["code"]), (404, &code.into()), "{path}");
    }
    assert_eq!(client(&registry).ask("DELETE", &manifest_path(), &[]).unwrap().status, 405);
    assert_eq!(client(&registry).get("/v2/").unwrap().status, 200);
}

#[test]
fn a_head_has_the_headers_of_the_get_and_no_body() {
    let (registry, image) = registry();
    let mut client = client(&registry);
    let head = client.ask("HEAD", &layer_path(&image), &[]).unwrap();
    let get = client.get(&layer_path(&image)).unwrap();
    assert_eq!((head.headers, head.body.len()), (get.headers, 0));
    assert_eq!(registry.stats().heads, 1);
}

#[test]
fn ranges_are_served_in_part() {
    let (registry, image) = registry();
    let (path, whole) = (layer_path(&image), layer(&image));
    let last = whole.len() - 1;
    for (range, start, end) in [("10-", 10, last), ("10-19", 10, 19), ("4000-99999", 4000, last)] {
        let answer = client(&registry).ask("GET", &path, &[&format!("Range: bytes={range}")]).unwrap();
        assert_eq!((answer.status, &*answer.body), (206, &whole[start..=end]), "{range}");
        let content_range = format!("bytes {start}-{end}/{}", whole.len());
        assert_eq!(answer.header("content-range"), Some(&*content_range));
    }
    let answer = client(&registry).ask("GET", &path, &[&format!("Range: bytes={}-", last + 1)]).unwrap();
    assert_eq!(answer.status, 416);
    assert_eq!(answer.header("content-range"), Some(&*format!("bytes */{}", whole.len())));
}

#[test]
fn referrers_name_the_manifests_of_a_subject() {
    let (registry, image) = registry();
    let subject = image.digest();
    let signature = format!(
        r#"{{"artifactType":"application/x-signature","subject":{{"digest":"{subject}"}},"annotations":{{"a":"b"}}}}"#
    );
    let digest = registry.put_manifest(
        REPOSITORY,
        "sig",
        "application/vnd.oci.image.manifest.v1+json",
        signature.into_bytes(),
    );
    let path = format!("/v2/{REPOSITORY}/referrers/{subject}");
    let index = client(&registry).get(&path).unwrap().json();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(index["manifests"][0]["digest"], digest.as_str());
    assert_eq!(index["manifests"][0]["annotations"]["a"], "b");
    let filtered = client(&registry).get(&format!("{path}?artifactType=application%2Fx-else")).unwrap();
    assert_eq!(filtered.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(filtered.json()["manifests"], serde_json::json!([]));
}

#[test]
fn the_api_may_have_another_root() {
    let registry = Registry::builder().api_root("/mirror/of").start().unwrap();
    registry.put_blob("a", *b"blob");
    let digest = Digest::sha256(b"blob");
    assert_eq!(client(&registry).get(&format!("/mirror/of/a/blobs/{digest}")).unwrap().body, b"blob");
    assert_eq!(client(&registry).get(&format!("/v2/a/blobs/{digest}")).unwrap().status, 404);
}

#[test]
fn a_request_that_is_none_is_refused() {
    let (registry, _) = registry();
    let answer = client(&registry).get("/ no such thing\u{1}").unwrap();
    assert_eq!((answer.status, answer.header("connection")), (400, Some("close")));
}
