//! One pull, and many, from a registry in the process into a store on disk.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::SOON;
use crossbeam_channel::unbounded;
use oci_puller::testing::Registry;
use oci_puller::testing::images::ImageBuilder;
use oci_puller::{
    ErrorKind, ImagePuller, ImageService, ParallelImagePuller, PullContext, PullRequest, RegistryImageService,
};

fn service(dir: &tempfile::TempDir) -> RegistryImageService {
    RegistryImageService::builder(dir.path().join("store")).build().unwrap()
}

#[test]
fn an_image_is_pulled_and_read_back() {
    let registry = Registry::start().unwrap();
    let image = ImageBuilder::new("library/app").layer(300_000).layer(1_000).build();
    let name = registry.push(&image, "v1");
    let dir = tempfile::tempdir().unwrap();
    let service = service(&dir);

    let pulled = service.pull(&*name).unwrap();
    assert_eq!(pulled.image_ref.as_str(), image.config_digest().as_str());
    assert_eq!(pulled.manifest_digest.as_ref(), Some(image.digest()));
    assert_eq!(pulled.bytes_reused, 0);

    let again = service.pull(&*name).unwrap();
    assert_eq!(again.bytes_reused + again.bytes_fetched, pulled.bytes_fetched);
    let cx = PullContext::new();
    assert_eq!(service.image_size(&cx, &name.as_str().into()).unwrap(), pulled.bytes_fetched);
}

#[test]
fn many_images_are_pulled_through_the_parallel_puller_and_shared_layers_once() {
    let registry = Registry::start().unwrap();
    let names: Vec<String> = (0..8)
        .map(|n| {
            let image = ImageBuilder::new(format!("app{n}"))
                .seed(n)
                .layer_shared(99, 2_000_000)
                .layer(10_000)
                .build();
            registry.push(&image, "v1")
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let puller = ParallelImagePuller::new(service(&dir), Some(4)).unwrap();
    let (results, answers) = unbounded();
    for (id, name) in names.iter().enumerate() {
        puller.pull_image(PullContext::new(), PullRequest::new(id as u64, name.as_str()), results.clone());
    }
    let mut fetched = 0;
    for _ in &names {
        let result = answers.recv_timeout(SOON).unwrap();
        fetched += result.outcome.unwrap().bytes_fetched;
    }
    assert!(fetched < 2_400_000, "{fetched}");
}

#[test]
fn what_is_not_there_is_not_found() {
    let registry = Registry::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let name = format!("{}/no/such:v1", registry.host());
    let error = service(&dir).pull(&*name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    println!("{error}");
    let _ = Arc::new(());
}
