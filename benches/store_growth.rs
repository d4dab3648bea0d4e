//! What does one more image cost in a store that has many already, and what do images that come at
//! the same time cost?

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../tests/archives/mod.rs"]
mod archives;

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::thread;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use oci_puller::store::Durability;
use oci_puller::{PullContext, Store};

/// A store with `count` names.
fn store_of(dir: &Path, count: usize, durability: Durability) -> Store {
    let store = Store::builder(dir).durability(durability).build().unwrap();
    store.import(&PullContext::new(), &archives::image("first", &[b"layer"]).archive[..]).unwrap();
    let path = dir.join("index.json");
    let text = fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once('[').unwrap();
    let (entry, tail) = rest.rsplit_once(']').unwrap();
    let named = |at: usize| entry.replace("first", &format!("registry.example.com/team/image:{at}"));
    let entries: Vec<_> = (0..count).map(named).collect();
    fs::write(path, format!("{head}[{}]{tail}", entries.join(","))).unwrap();
    store
}

fn one_more(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one_more_image");
    group.sample_size(20);
    for durability in [Durability::Relaxed, Durability::Full] {
        for count in [10, 1_000, 10_000] {
            let dir = tempfile::tempdir().unwrap();
            let store = store_of(dir.path(), count, durability);
            let mut next = 0;
            let mut image = || {
                next += 1;
                archives::image("registry.example.com/new:1", &[&u32::to_le_bytes(next), &[7; 10_000]])
            };
            group.bench_function(BenchmarkId::new(format!("{durability:?}"), count), |bencher| {
                bencher.iter_batched(
                    &mut image,
                    |image| black_box(store.import(&PullContext::new(), &image.archive[..])).unwrap(),
                    BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

/// Each thread's images come one after the other; those of different threads share their flushes.
fn at_once(criterion: &mut Criterion) {
    const EACH: u32 = 8;
    let mut group = criterion.benchmark_group("images_at_once");
    group.sample_size(20);
    for durability in [Durability::Relaxed, Durability::Full] {
        for threads in [1, 8] {
            let dir = tempfile::tempdir().unwrap();
            let store = store_of(dir.path(), 10, durability);
            let mut next = 0;
            let mut images = || {
                let mut image = || {
                    next += 1;
                    let name = format!("registry.example.com/new:{}", next % 100);
                    archives::image(&name, &[&u32::to_le_bytes(next), &[7; 10_000]]).archive
                };
                let mut of_one = || (0..EACH).map(|_| image()).collect::<Vec<_>>();
                (0..threads).map(|_| of_one()).collect::<Vec<_>>()
            };
            group.throughput(Throughput::Elements(u64::from(EACH * threads)));
            group.bench_function(BenchmarkId::new(format!("{durability:?}"), threads), |bencher| {
                bencher.iter_batched(
                    &mut images,
                    |images| import_all(&store, &images),
                    BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

fn import_all(store: &Store, images: &[Vec<Vec<u8>>]) {
    thread::scope(|scope| {
        for archives in images {
            scope.spawn(move || {
                for archive in archives {
                    black_box(store.import(&PullContext::new(), &archive[..])).unwrap();
                }
            });
        }
    });
}

criterion_group!(benches, one_more, at_once);
criterion_main!(benches);
