//! The registry of `testing` serves as a registry does, and fails on demand.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

#[path = "../common/raw.rs"]
mod raw;
#[path = "../common/tls.rs"]
mod tls;

mod counting;
mod credentials;
mod encryption;
mod ending;
mod faults;
mod serving;

use std::time::Duration;

use oci_puller::image::Digest;
use oci_puller::testing::Registry;
use oci_puller::testing::images::{Image, ImageBuilder};
use raw::{Answer, Client};

pub(crate) const REPOSITORY: &str = "library/app";
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A registry with one image of one layer, 3,000 bytes and what the archive adds.
pub(crate) fn registry() -> (Registry, Image) {
    let registry = Registry::start().unwrap();
    let image = ImageBuilder::new(REPOSITORY).layer(3000).build();
    registry.push(&image, "latest");
    (registry, image)
}

pub(crate) fn manifest_path() -> String {
    format!("/v2/{REPOSITORY}/manifests/latest")
}

pub(crate) fn layer_path(image: &Image) -> String {
    blob_path(&image.layers()[0].digest)
}

pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("/v2/{REPOSITORY}/blobs/{digest}")
}

pub(crate) fn layer(image: &Image) -> &[u8] {
    &image.layers()[0].data
}

pub(crate) fn client(registry: &Registry) -> Client {
    Client::connect(registry.addr())
}

/// What a new connection gets for the layer.
pub(crate) fn get_layer(registry: &Registry, image: &Image) -> Answer {
    client(registry).get(&layer_path(image)).unwrap()
}
