//! Bodies with a `Content-Encoding`, though `identity` was asked for: the digest decides.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common;

use common::pulls::quick;
use oci_puller::image::Digest;
use oci_puller::testing::images::{Image, ImageBuilder};
use oci_puller::testing::{Action, Fault, Registry, Target, TokenServer};
use oci_puller::{Error, ErrorKind};

/// Returns a gzip member without compression: header, stored blocks, checksum and length.
fn gzip(content: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff".to_vec();
    let mut blocks: Vec<&[u8]> = content.chunks(0xffff).collect();
    if blocks.is_empty() {
        blocks.push(b"");
    }
    for (number, block) in blocks.iter().enumerate() {
        let length = u16::try_from(block.len()).unwrap();
        bytes.push(u8::from(number + 1 == blocks.len()));
        bytes.extend(length.to_le_bytes());
        bytes.extend((!length).to_le_bytes());
        bytes.extend(*block);
    }
    let mut checksum = !0_u32;
    for byte in content {
        checksum ^= u32::from(*byte);
        for _ in 0..8 {
            checksum = (checksum >> 1) ^ (0xedb8_8320 & (checksum & 1).wrapping_neg());
        }
    }
    bytes.extend((!checksum).to_le_bytes());
    bytes.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
    bytes
}

/// What a host changes of its answers.
#[derive(Clone, Copy, Debug)]
enum Part {
    Manifest,
    Config,
    Layer,
}

/// Pulls an image one part of which arrives with a `Content-Encoding` and as `encode` changes it.
fn pull(
    image: &Image,
    part: Part,
    encoding: &str,
    encode: impl Fn(&[u8]) -> Vec<u8>,
    is_chunked: bool,
) -> Result<(), Error> {
    let registry = Registry::start().unwrap();
    let name = registry.push(image, "v1");
    let content = match part {
        Part::Manifest => image.manifest_bytes(),
        Part::Config => &image.blobs().find(|blob| blob.digest == *image.config_digest()).unwrap().data,
        Part::Layer => &image.layers()[0].data,
    };
    let of_part = match part {
        Part::Manifest => Fault::on(Target::Manifest),
        _ => Fault::on(Target::Blob).path_containing(Digest::sha256(content).as_str()),
    };
    let fault =
        of_part.with(Action::Body(encode(content))).with(Action::header("Content-Encoding", encoding));
    registry.fault(if is_chunked { fault.with(Action::Chunked) } else { fault });
    let dir = tempfile::tempdir().unwrap();
    // The platform is asked for, so that the config is read as a document.
    let service = quick(dir.path()).platform("linux/amd64".parse().unwrap()).build().unwrap();
    service.pull(&*name).map(drop)
}

fn assert_refused(outcome: Result<(), Error>, encoding: &str, what: &str) {
    let error = outcome.expect_err(what);
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Protocol, false), "{what}: {error}");
    assert!(error.to_string().contains(&format!("({encoding})")), "{what}: {error}");
    assert_eq!(error.attempts().len(), 1, "{what}: {error}");
}

const PARTS: [Part; 3] = [Part::Manifest, Part::Config, Part::Layer];

#[test]
fn bytes_that_have_the_digest_are_taken_whatever_the_header_says() {
    let image = ImageBuilder::new("library/app").layer(70_000).build();
    for encoding in ["AWS-Chunked, UTF-8", "", "gzip", "aws-chunked,br"] {
        for part in PARTS {
            for is_chunked in [false, true] {
                let outcome = pull(&image, part, encoding, <[u8]>::to_vec, is_chunked);
                outcome.unwrap_or_else(|error| panic!("{part:?} {encoding:?} {is_chunked}: {error}"));
            }
        }
    }
}

#[test]
fn a_compressed_layer_that_is_labelled_as_encoded_is_not_decoded() {
    let layer = gzip(&[7; 50_000]);
    let diff_id = Digest::sha256(&[7; 50_000]);
    let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
    let image = ImageBuilder::new("library/app").layer_made(media_type, layer, diff_id).build();
    for is_chunked in [false, true] {
        pull(&image, Part::Layer, "gzip", <[u8]>::to_vec, is_chunked).unwrap();
        let compressed_twice = pull(&image, Part::Layer, "gzip", gzip, is_chunked);
        match cfg!(feature = "unpack") {
            true => compressed_twice.unwrap(),
            false => assert_refused(compressed_twice, "gzip", "compressed twice"),
        }
    }
}

#[test]
fn a_body_that_is_really_compressed_is_decoded_with_the_feature_for_it() {
    let image = ImageBuilder::new("library/app").layer(70_000).build();
    for part in PARTS {
        for is_chunked in [false, true] {
            let outcome = pull(&image, part, "gzip", gzip, is_chunked);
            match cfg!(feature = "unpack") {
                true => outcome.unwrap_or_else(|error| panic!("{part:?} {is_chunked}: {error}")),
                false => assert_refused(outcome, "gzip", &format!("{part:?} {is_chunked}")),
            }
        }
    }
}

#[test]
fn a_body_that_does_not_decode_to_the_digest_is_refused_once() {
    let image = ImageBuilder::new("library/app").layer(70_000).build();
    type Encode = fn(&[u8]) -> Vec<u8>;
    let cases: [(&str, Encode); 6] = [
        ("other bytes", |content| gzip(&content[1..])),
        ("more bytes", |content| gzip(&[content, b"x"].concat())),
        ("a bomb", |content| [gzip(content), gzip(&[0; 200_000])].concat()),
        ("members without end", |_| gzip(b"").repeat(20_000)),
        ("cut short", |content| gzip(content).split_last().unwrap().1.to_vec()),
        ("an encoding that is not known", |content| content.iter().map(|byte| byte ^ 0x55).collect()),
    ];
    for (what, encode) in cases {
        for part in PARTS {
            for is_chunked in [false, true] {
                let outcome = pull(&image, part, "gzip", encode, is_chunked);
                let what = format!("{what}, {part:?}, {is_chunked}");
                match (outcome, part) {
                    // No digest is known of a tag's manifest: what it decodes to is read.
                    (Err(error), Part::Manifest) => assert!(!error.is_retryable(), "{what}: {error}"),
                    // There is a limit to what is read.
                    (Err(error), _) if error.to_string().contains("longer than") => {
                        assert_eq!(error.kind(), ErrorKind::Protocol, "{what}");
                        assert!(!error.is_retryable(), "{what}");
                    }
                    (outcome, _) => assert_refused(outcome, "gzip", &what),
                }
            }
        }
    }
}

#[test]
fn a_large_layer_is_decoded_where_the_host_sends_the_whole_for_each_range() {
    let registry = Registry::start().unwrap();
    let image = ImageBuilder::new("library/app").layer(1_000_000).build();
    let name = registry.push(&image, "v1");
    let layer = &image.layers()[0];
    let encoded = Fault::on(Target::Blob)
        .path_containing(layer.digest.as_str())
        .with(Action::IgnoreRange)
        .with(Action::Body(gzip(&layer.data)))
        .with(Action::header("Content-Encoding", "gzip"))
        .with(Action::Chunked);
    registry.fault(encoded);
    let dir = tempfile::tempdir().unwrap();
    let outcome = quick(dir.path()).chunks(100_000, 50_000).build().unwrap().pull(&*name).map(drop);
    match cfg!(feature = "unpack") {
        true => outcome.unwrap(),
        false => assert_refused(outcome, "gzip", "a large layer"),
    }
}

#[test]
fn a_page_in_place_of_a_blob_is_named_and_another_host_is_asked() {
    let page = b"<!DOCTYPE html>\n<html><head><title>Log in\nfirst</title></head></html>".to_vec();
    let image = ImageBuilder::new("library/app").layer(70_000).build();
    for part in [Part::Config, Part::Layer] {
        for is_chunked in [false, true] {
            let outcome = pull(&image, part, "", |_| page.clone(), is_chunked);
            let error = outcome.unwrap_err();
            assert_eq!(
                (error.kind(), error.is_retryable()),
                (ErrorKind::Protocol, false),
                "{part:?}: {error}"
            );
            let text = error.to_string();
            assert!(
                text.contains("HTML came where a blob was due") && text.contains("Log in first"),
                "{text}"
            );
            assert_eq!(error.attempts().len(), 1, "{part:?}: {error}");
        }
    }
    let (portal, registry) = (Registry::start().unwrap(), Registry::start().unwrap());
    portal.push(&image, "v1");
    let name = registry.push(&image, "v1");
    portal.fault(Fault::on(Target::Blob).with(Action::Body(page)));
    let dir = tempfile::tempdir().unwrap();
    let service = quick(dir.path()).mirror(registry.host(), portal.url());
    service.build().unwrap().pull(&*name).unwrap();
}

#[test]
fn an_encoded_error_is_quoted_and_an_encoded_token_used() {
    let image = ImageBuilder::new("library/app").layer(1_000).build();
    let registry = Registry::start().unwrap();
    let name = registry.push(&image, "v1");
    let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such picture"}]}"#;
    let encoded = |fault: Fault, body: &[u8], encoding: &str| {
        fault.with(Action::Body(gzip(body))).with(Action::header("Content-Encoding", encoding))
    };
    let fault = registry.fault(encoded(Fault::on(Target::Manifest).with(Action::Status(404)), body, "gzip"));
    let dir = tempfile::tempdir().unwrap();
    let error = quick(dir.path()).build().unwrap().pull(&*name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.to_string().contains("no such picture"), cfg!(feature = "unpack"), "{error}");
    fault.remove();

    let tokens = TokenServer::new().anonymous();
    registry.require_token(&tokens);
    quick(dir.path()).build().unwrap().pull(&*name).unwrap();
    let token = format!(r#"{{"token":"{}"}}"#, tokens.issued()[0].token);
    registry.fault(encoded(Fault::on(Target::Token), token.as_bytes(), "gzip"));
    let dir = tempfile::tempdir().unwrap();
    let outcome = quick(dir.path()).build().unwrap().pull(&*name).map(drop);
    match cfg!(feature = "unpack") {
        true => outcome.unwrap(),
        false => assert_refused(outcome, "gzip", "a token"),
    }
}
