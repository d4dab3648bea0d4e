//! What does one more image cost in a store that has many already?

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../tests/archives/mod.rs"]
mod archives;

use std::fs;
use std::hint::black_box;
use std::path::Path;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use oci_puller::{Durability, PullContext, Store};

/// A store with `count` names.
fn store_of(dir: &Path, count: usize, durability: Durability) -> Store {
    let store = Store::builder(dir).durability(durability).open().unwrap();
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

criterion_group!(benches, one_more);
criterion_main!(benches);
