//! Images from a registry on the loopback device into a store, each time a new one.
//!
//! The works are those that the README's figures are of, a tenth as large; `OCI_PULLER_BENCH_SCALE=1`
//! makes them whole. The registry runs in this process, so its share of the processors is in the figures:
//! they tell one version of this crate from another, not this crate from other programs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_channel::unbounded;
use oci_puller::testing::Registry;
use oci_puller::testing::images::ImageBuilder;
use oci_puller::{
    Durability, ImagePuller, ParallelImagePuller, PullContext, PullRequest, RegistryImageService,
};

const MIB: f64 = 1024.0 * 1024.0;

/// Images that are pulled together, and their size.
struct Work {
    name: &'static str,
    images: Vec<String>,
    bytes: u64,
}

fn scale() -> f64 {
    std::env::var("OCI_PULLER_BENCH_SCALE").ok().and_then(|scale| scale.parse().ok()).unwrap_or(0.1)
}

fn scaled(mib: f64) -> usize {
    (mib * MIB * scale()) as usize
}

/// An image of its own layers, and one that all images of its work share.
fn image(repository: &str, seed: u64, shared: Option<usize>, layers: &[usize]) -> ImageBuilder {
    let image = ImageBuilder::new(repository).seed(seed);
    let image = shared.into_iter().fold(image, |image, size| image.layer_shared(7, size));
    layers.iter().fold(image, |image, size| image.layer(*size))
}

fn works(registry: &Registry) -> Vec<Work> {
    let push = |repository: &str, seed, shared, layers: &[usize]| {
        registry.push(&image(repository, seed, shared, layers).build(), "v1")
    };
    let sizes = [60.0, 30.0, 20.0, 15.0, 10.0, 8.0, 5.0, 2.0].map(scaled);
    let small = scaled(0.25);
    let many = ((200.0 * scale()) as u64).max(1);
    vec![
        Work {
            name: "A: 8 layers, 150 MiB",
            images: vec![push("bench/a", 1, None, &sizes)],
            bytes: sizes.iter().sum::<usize>() as u64,
        },
        Work {
            name: "B: 40 layers of 256 KiB",
            images: vec![push("bench/b", 2, None, &[small; 40])],
            bytes: 40 * small as u64,
        },
        Work {
            name: "C: one layer of 512 MiB",
            images: vec![push("bench/c", 3, None, &[scaled(512.0)])],
            bytes: scaled(512.0) as u64,
        },
        Work {
            name: "D: 20 images that share 60 MiB",
            images: (0..20)
                .map(|n| push(&format!("bench/d{n}"), n, Some(scaled(60.0)), &[scaled(2.0)]))
                .collect(),
            bytes: (scaled(60.0) + 20 * scaled(2.0)) as u64,
        },
        Work {
            name: "E: 200 images of 10 KiB",
            images: (0..many).map(|n| push(&format!("bench/e{n}"), n, None, &[10 * 1024])).collect(),
            bytes: many * 10 * 1024,
        },
    ]
}

/// Pulls all of a work into a store that is not there yet.
fn pull(work: &Work, durability: Durability) -> Duration {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let begun_at = Instant::now();
    let service = RegistryImageService::builder(dir.path().join("store"))
        .durability(durability)
        .build()
        .expect("a service");
    let puller = Arc::new(ParallelImagePuller::new(service, Some(8)).expect("a limit in range"));
    let (results, answers) = unbounded();
    for (id, image) in work.images.iter().enumerate() {
        puller.pull_image(PullContext::new(), PullRequest::new(id as u64, image.as_str()), results.clone());
    }
    for result in answers.iter().take(work.images.len()) {
        result.outcome.expect("the image comes");
    }
    begun_at.elapsed()
}

fn pull_loopback(c: &mut Criterion) {
    let registry = Registry::start().expect("a port");
    for (name, durability) in [("full", Durability::Full), ("relaxed", Durability::Relaxed)] {
        let mut group = c.benchmark_group(format!("{name} durability"));
        group.sample_size(10);
        for work in works(&registry) {
            group.throughput(Throughput::Bytes(work.bytes));
            group.bench_function(work.name, |bench| {
                bench.iter_custom(|rounds| (0..rounds).map(|_| pull(&work, durability)).sum());
            });
        }
        group.finish();
    }
}

criterion_group!(benches, pull_loopback);
criterion_main!(benches);
