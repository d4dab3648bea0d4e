//! Parsing of references, digests and manifests.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use oci_puller::image::{Digest, Document, Reference};

fn references(c: &mut Criterion) {
    let digest = Digest::sha256(b"");
    let pinned = format!("registry.example.com:5000/team/project/app:v1.2.3@{digest}");
    let mut group = c.benchmark_group("reference");
    for (name, text) in [("short", "alpine"), ("pinned", &pinned)] {
        group.bench_function(name, |b| b.iter(|| Reference::parse(black_box(text))));
    }
    group.finish();
}

fn digests(c: &mut Criterion) {
    let text = Digest::sha256(b"").to_string();
    c.bench_function("digest", |b| b.iter(|| Digest::parse(black_box(&text))));
}

fn manifests(c: &mut Criterion) {
    let mut group = c.benchmark_group("manifest");
    for layers in [10, 4096] {
        let json = manifest(layers);
        group.throughput(Throughput::Bytes(json.len() as u64));
        group.bench_function(BenchmarkId::new("layers", layers), |b| {
            b.iter(|| Document::parse(None, black_box(json.as_bytes())));
        });
    }
    group.finish();
}

fn manifest(layers: usize) -> String {
    let descriptor = |number: usize| {
        let digest = Digest::sha256(&number.to_le_bytes());
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{digest}","size":{}}}"#,
            number + 1
        )
    };
    let list: Vec<String> = (1..=layers).map(descriptor).collect();
    format!(r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#, descriptor(0), list.join(","))
}

criterion_group!(benches, references, digests, manifests);
criterion_main!(benches);
