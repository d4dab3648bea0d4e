//! A broken download resumes: in the same pull, in a later one, in a later process.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::time::Duration;

use common::pulls::quick;
use oci_puller::testing::images::{Image, ImageBuilder};
use oci_puller::testing::{Action, Fault, FaultHandle, Registry, Target};
use oci_puller::{CancelToken, Error, ErrorKind, ImageService, PullContext, PullRequest, PulledImage};

const CUT: u64 = 60_000;

struct Scene {
    registry: Registry,
    image: Image,
    name: String,
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let (registry, image) = (Registry::start().unwrap(), image());
        let name = registry.push(&image, "v1");
        Scene { registry, image, name, dir: tempfile::tempdir().unwrap() }
    }

    fn layer(&self) -> Fault {
        Fault::on(Target::Blob).path_containing(self.image.layers()[0].digest.as_str())
    }

    fn fault(&self, fault: Fault) -> FaultHandle {
        self.registry.fault(fault)
    }

    fn size(&self) -> u64 {
        self.image.layers()[0].size()
    }

    /// With a service of its own, as another process would.
    fn pull(&self, tries: u32) -> Result<PulledImage, Error> {
        quick(self.dir.path()).tries(tries).build().unwrap().pull(&*self.name)
    }

    /// A pull that breaks off after [`CUT`] bytes of the layer.
    fn break_off(&self) {
        let cut = self.fault(self.layer().with(Action::Cut(CUT)));
        self.pull(1).unwrap_err();
        cut.remove();
        self.registry.forget_requests();
    }

    /// What was asked for of the layer.
    fn ranges(&self) -> Vec<Option<String>> {
        let layer = self.image.layers()[0].digest.as_str();
        let requests = self.registry.requests();
        let asked = requests.iter().filter(|request| request.path.ends_with(layer));
        asked.map(|request| request.header("range").map(str::to_owned)).collect()
    }

    fn partial(&self) -> Option<std::path::PathBuf> {
        files(&self.dir.path().join("store")).into_iter().find(|path| {
            !path.components().any(|part| part.as_os_str() == "blobs")
                && path.metadata().is_ok_and(|file| file.len() == CUT)
        })
    }
}

fn image() -> Image {
    ImageBuilder::new("library/app").layer(200_000).build()
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn rest() -> Option<String> {
    Some(format!("bytes={CUT}-"))
}

#[test]
fn in_the_same_pull() {
    let scene = Scene::new();
    scene.fault(scene.layer().times(1).with(Action::Cut(CUT)));
    scene.pull(2).unwrap();
    assert_eq!(scene.ranges(), [None, rest()]);
}

#[test]
fn in_a_later_pull_of_another_service() {
    let scene = Scene::new();
    scene.break_off();
    let before = scene.registry.stats().blob_bytes;
    let pulled = scene.pull(1).unwrap();
    assert_eq!(scene.ranges(), [rest()]);
    assert!(scene.registry.stats().blob_bytes - before < scene.size() - CUT + 1000);
    assert!(pulled.bytes_reused >= CUT, "{pulled:?}");
}

#[test]
fn a_host_that_does_not_give_the_rest_is_asked_for_the_whole_or_gave_it() {
    // What the host answers to the range, and what it was asked.
    for (answer, asked) in [
        (vec![Action::IgnoreRange], vec![rest()]),
        (vec![Action::Status(416)], vec![rest(), None]),
        (vec![Action::header("Content-Range", "bytes 0-9/10")], vec![rest(), None]),
        (vec![Action::header("Content-Range", "bytes */10")], vec![rest(), None]),
        (vec![Action::header("Content-Range", "nonsense")], vec![rest(), None]),
        (vec![Action::NoHeader("Content-Range".into())], vec![rest(), None]),
    ] {
        let scene = Scene::new();
        scene.break_off();
        let with_range = scene.layer().when(|request| request.header("range").is_some());
        scene.fault(answer.iter().cloned().fold(with_range, Fault::with));
        scene.pull(1).unwrap();
        assert_eq!(scene.ranges(), asked, "{answer:?}");
    }
}

#[test]
fn a_206_that_nobody_asked_for_is_no_answer() {
    let scene = Scene::new();
    scene.fault(scene.layer().with(Action::Status(206)));
    assert_eq!(scene.pull(2).unwrap_err().kind(), ErrorKind::Protocol);
    assert_eq!(scene.ranges(), [None]);
}

#[test]
fn damaged_partial_bytes_are_fetched_anew_once() {
    let scene = Scene::new();
    scene.break_off();
    let partial = scene.partial().expect("what came is kept");
    std::fs::write(partial, vec![0; CUT as usize]).unwrap();
    let pulled = scene.pull(1).unwrap();
    assert_eq!(scene.ranges(), [rest(), None]);
    assert!(pulled.bytes_reused < CUT, "{pulled:?}");
}

#[test]
fn after_a_wrong_hash_one_clean_try_then_the_next_host_then_the_error() {
    for mirror_is_good in [true, false] {
        let scene = Scene::new();
        let origin = Registry::start().unwrap();
        let name = origin.push(&scene.image, "v1");
        scene.fault(scene.layer().with(Action::Corrupt(9)));
        if !mirror_is_good {
            origin.fault(scene.layer().with(Action::Corrupt(10)));
        }
        let service = quick(scene.dir.path()).mirror(origin.host(), scene.registry.url()).build().unwrap();
        let outcome = service.pull(&*name);
        assert_eq!(scene.ranges(), [None, None]);
        let expected = (!mirror_is_good).then_some(ErrorKind::DigestMismatch);
        assert_eq!(outcome.as_ref().err().map(Error::kind), expected, "{outcome:?}");
        assert_eq!(origin.stats().blobs, if mirror_is_good { 1 } else { 2 });
    }
}

/// Pulls one layer of `size` bytes over connections that are cut after at most `longest`, and returns
/// the share of its bytes that came twice.
fn share_fetched_twice(size: usize, longest: u64) -> f64 {
    let registry = Registry::start().unwrap();
    let image = ImageBuilder::new("library/large").layer(size).build();
    let name = registry.push(&image, "v1");
    let cuts = registry.fault(Fault::on(Target::Blob).with(Action::CutWithin(longest / 2..longest)));
    let dir = tempfile::tempdir().unwrap();
    quick(dir.path()).tries(5).build().unwrap().pull(&*name).unwrap();
    assert!(cuts.fired() > size as u64 / longest);
    let (sent, size) = (registry.stats().blob_bytes as f64, image.layers()[0].size() as f64);
    sent / size - 1.0
}

#[test]
fn a_layer_whose_every_connection_is_cut_arrives_and_next_to_nothing_comes_twice() {
    let twice = share_fetched_twice(64 << 20, 6 << 20);
    assert!(twice <= 0.01, "{twice}");
}

#[test]
#[ignore = "takes a while"]
fn so_does_a_layer_of_half_a_gibibyte() {
    let twice = share_fetched_twice(512 << 20, 6 << 20);
    assert!(twice <= 0.01, "{twice}");
}

/// How a pull is ended on the way.
#[derive(Clone, Copy, Debug)]
enum End {
    Cancel,
    Deadline,
}

#[test]
fn bytes_from_before_a_cancel_or_a_deadline_are_used() {
    const MIB: u64 = 1024 * 1024;
    for (end, shares, layers) in [
        (End::Cancel, &[0.4][..], &[24_000_000][..]),
        (End::Cancel, &[0.2, 0.5, 0.8], &[9_000_000; 3]),
        (End::Deadline, &[0.4], &[24_000_000]),
    ] {
        let registry = Registry::start().unwrap();
        let image = layers.iter().fold(ImageBuilder::new("library/app"), |image, size| image.layer(*size));
        let image = image.build();
        let name = registry.push(&image, "v1");
        let size: u64 = image.layers().iter().map(|layer| layer.size()).sum();
        let rate = 12_000_000;
        registry.limit_rate(rate);
        let dir = tempfile::tempdir().unwrap();
        for share in shares {
            let until = (size as f64 * share) as u64;
            let service = quick(dir.path()).build().unwrap();
            let (token, request) = (CancelToken::new(), PullRequest::new(0, &*name));
            let outcome = std::thread::scope(|scope| {
                let cx = PullContext::new().with_cancel(&token);
                let cx = match end {
                    End::Cancel => cx,
                    End::Deadline => cx.with_timeout(Duration::from_secs_f64(until as f64 / rate as f64)),
                };
                let pull = scope.spawn(move || service.pull_image(&cx, &request).map(drop));
                if let End::Cancel = end {
                    assert!(registry.wait_until(|seen| seen.blob_bytes >= until, Duration::from_secs(60)));
                    token.cancel();
                }
                pull.join().unwrap()
            });
            assert!(outcome.is_err(), "{end:?}: it was not ended on the way");
        }
        let before = registry.stats().blob_bytes;
        quick(dir.path()).build().unwrap().pull(&*name).unwrap();
        let (all, last) = (registry.stats().blob_bytes, registry.stats().blob_bytes - before);
        let told = format!("{end:?} at {shares:?}: {all} bytes for {size}, {last} of them at last");
        assert!(all as f64 <= 1.05 * size as f64 + (shares.len() as u64 * MIB) as f64, "{told}");
        if let (End::Cancel, [_]) = (end, shares) {
            // Of what the registry wrote, 1 MiB may be in the sockets of a machine that is busy.
            assert!(all <= size + 256 * 1024 + MIB, "{told}");
        }
    }
}
