//! Images that are unpacked while they are fetched.
#![cfg(all(feature = "testing", feature = "unpack"))]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use common::SOON;
use oci_puller::progress::{Progress, ProgressEvent};
use oci_puller::store::Durability;
use oci_puller::testing::images::{Image, ImageBuilder};
use oci_puller::testing::{Action, Fault, FaultHandle, Registry, Stage, Target};
use oci_puller::unpack::{LayerStore, Owners};
use oci_puller::{
    CancelToken, Error, ErrorKind, ImageService, PullContext, PullRequest, PulledImage, RegistryImageService,
};

/// A registry with an image, and a service that unpacks what it pulls.
struct Setup {
    registry: Registry,
    image: Image,
    name: String,
    layers: LayerStore,
    service: RegistryImageService,
    dir: tempfile::TempDir,
}

impl Setup {
    fn new(sizes: &[usize], durability: Durability) -> Setup {
        let registry = Registry::start().unwrap();
        let builder = ImageBuilder::new("library/app");
        let image = sizes.iter().fold(builder, |builder, size| builder.layer(*size)).build();
        let name = registry.push(&image, "v1");
        let dir = tempfile::tempdir().unwrap();
        let layers = LayerStore::builder(dir.path().join("layers")).owners(Owners::Current).build().unwrap();
        let builder = RegistryImageService::builder(dir.path().join("store")).durability(durability);
        let service = builder.unpack_into(layers.clone()).build().unwrap();
        Setup { registry, image, name, layers, service, dir }
    }

    /// The path of a layer's blob.
    fn blob(&self, layer: usize) -> String {
        format!("blobs/{}", self.image.layers()[layer].digest)
    }

    /// Holds the body of a layer after this number of bytes.
    fn hold(&self, layer: usize, bytes: u64) -> FaultHandle {
        let at_layer = Fault::on(Target::Blob).path_containing(self.blob(layer));
        self.registry.fault(at_layer.with(Action::Hold(Stage::Body(bytes))))
    }

    fn pull(&self, cx: &PullContext) -> Result<PulledImage, Error> {
        self.service.pull_image(cx, &PullRequest::new(1, self.name.as_str()))
    }

    /// Compares each layer with one that is unpacked from the stored image.
    fn check(&self, pulled: &PulledImage) {
        let folders = pulled.layers.as_ref().unwrap();
        let stored = self.service.store().find(&self.name).unwrap().unwrap();
        assert_eq!(self.layers.find(&stored).unwrap().unwrap().lower(), folders);
        let others = LayerStore::builder(self.dir.path().join("others")).owners(Owners::Current);
        let others = others.build().unwrap();
        let expected = self.service.store().unpack(&stored).into_layers(&others).unwrap();
        assert_eq!(expected.lower().len(), folders.len());
        for (expected, folder) in expected.lower().iter().zip(folders) {
            for file in fs::read_dir(expected.join("data")).unwrap() {
                let file = file.unwrap();
                let found = fs::read(folder.join("data").join(file.file_name())).unwrap();
                assert!(found == fs::read(file.path()).unwrap(), "{file:?}");
            }
        }
    }
}

/// Releases the held requests once this number of bytes, or of layers, is unpacked.
struct ReleaseAfter {
    held: FaultHandle,
    bytes: AtomicU64,
    layers: AtomicU64,
}

impl Progress for ReleaseAfter {
    fn event(&self, event: &ProgressEvent) {
        let (left, done) = match event {
            ProgressEvent::UnpackAdvanced { bytes, .. } => (&self.bytes, *bytes),
            ProgressEvent::LayerUnpacked { .. } => (&self.layers, 1),
            _ => return,
        };
        let before =
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(done)));
        if before.is_ok_and(|before| before > 0 && before <= done) {
            self.held.release();
        }
    }
}

fn context(held: FaultHandle, bytes: u64, layers: u64) -> PullContext {
    let progress = ReleaseAfter { held, bytes: bytes.into(), layers: layers.into() };
    PullContext::new().with_timeout(SOON).with_progress(Arc::new(progress))
}

#[test]
fn an_image_is_unpacked_when_its_pull_is_answered() {
    for durability in [Durability::Full, Durability::Relaxed] {
        let setup = Setup::new(&[300_000, 1_000], durability);
        let pulled = setup.pull(&PullContext::new()).unwrap();
        setup.check(&pulled);
        // The second time there is nothing to do.
        assert_eq!(setup.pull(&PullContext::new()).unwrap().layers, pulled.layers);
    }
}

#[test]
fn a_layer_is_unpacked_while_the_next_one_is_fetched() {
    for durability in [Durability::Full, Durability::Relaxed] {
        let setup = Setup::new(&[300_000, 200_000], durability);
        let held = setup.hold(1, 1_000);
        // The rest of the second layer comes when the first one is unpacked.
        let pulled = setup.pull(&context(held, 0, 1)).unwrap();
        setup.check(&pulled);
    }
}

#[test]
fn a_large_layer_is_unpacked_while_it_is_fetched() {
    let setup = Setup::new(&[40_000_000], Durability::Relaxed);
    let held = setup.hold(0, 3_000_000);
    let pulled = setup.pull(&context(held, 2_000_000, 0)).unwrap();
    setup.check(&pulled);
}

#[test]
fn a_layer_whose_bytes_were_wrong_first_is_unpacked_all_the_same() {
    for size in [300_000, 20_000_000] {
        let setup = Setup::new(&[10_000, size], Durability::Relaxed);
        let at_layer = Fault::on(Target::Blob).path_containing(setup.blob(1));
        let wrong = setup.registry.fault(at_layer.times(1).with(Action::Corrupt(150_000)));
        let pulled = setup.pull(&PullContext::new()).unwrap();
        assert_eq!(wrong.fired(), 1);
        setup.check(&pulled);
    }
}

#[test]
fn a_connection_that_breaks_does_not_disturb_the_unpacking() {
    let setup = Setup::new(&[20_000_000, 3_000_000], Durability::Relaxed);
    setup.registry.fault(Fault::on(Target::Blob).times(6).with(Action::CutWithin(100_000..2_000_000)));
    let pulled = setup.pull(&PullContext::new()).unwrap();
    setup.check(&pulled);
}

#[test]
fn a_pull_that_fails_ends_the_unpacking() {
    let setup = Setup::new(&[300_000, 200_000], Durability::Relaxed);
    let at_layer = Fault::on(Target::Blob).path_containing(setup.blob(1));
    setup.registry.fault(at_layer.with(Action::Status(404)));
    let error = setup.pull(&PullContext::new().with_timeout(SOON)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[test]
fn a_cancel_ends_the_unpacking() {
    let setup = Setup::new(&[300_000, 200_000], Durability::Relaxed);
    let held = setup.hold(1, 1_000);
    let token = CancelToken::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            assert!(held.wait_fired(1, SOON));
            token.cancel();
        });
        let error = setup.pull(&PullContext::new().with_timeout(SOON).with_cancel(&token)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    });
}

#[test]
fn an_image_that_is_stored_already_is_unpacked() {
    let setup = Setup::new(&[300_000, 200_000], Durability::Full);
    let store = setup.service.store().clone();
    RegistryImageService::builder(store.dir()).build().unwrap().pull(&*setup.name).unwrap();
    let pulled = setup.pull(&PullContext::new()).unwrap();
    assert!(pulled.bytes_fetched < 10_000, "{}", pulled.bytes_fetched);
    setup.check(&pulled);
}
