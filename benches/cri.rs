//! How long does a call to a CRI runtime take, apart from the runtime? The peer answers with ready bytes; `floor` sends
//! and receives as many over a new connection without HTTP/2.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use oci_puller::cri::CriImageService;
use oci_puller::{ImageService, PullContext};

#[allow(unreachable_pub)]
#[path = "../tests/common/cri_peer.rs"]
mod peer;

use peer::{field, number};

/// Answers each connection with the settings and `answer` once something came, until the process ends.
fn answer_all(path: &Path, answer: &[u8]) {
    let listener = UnixListener::bind(path).unwrap();
    let bytes = [&peer::frame(peer::SETTINGS, 0, 0, &[])[..], answer].concat();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            // The client may close the connection as soon as it has the end of the stream.
            let _ = stream.write_all(&bytes);
        }
    });
}

fn calls(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("status.sock");
    let answer = peer::image("sha256:id", 7, "r.io/app@sha256:0123");
    answer_all(&path, &answer);
    let service = CriImageService::builder(path.to_str().unwrap()).build().unwrap();
    let (cx, image) = (PullContext::new(), "r.io/app:v1".into());
    let mut group = c.benchmark_group("cri");
    group.bench_function("image_status", |b| b.iter(|| service.image_size(&cx, black_box(&image)).unwrap()));
    let mut buffer = vec![0; answer.len() + 9];
    group.bench_function("floor", |b| {
        b.iter(|| {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.write_all(&[0; 200]).unwrap();
            stream.read_exact(&mut buffer).unwrap();
        });
    });

    let path = folder.path().join("list.sock");
    let images = (0..10_000u64).flat_map(|n| {
        let names = [
            field(2, format!("r.io/a-rather-long-name-of-an-application-{n}:{}", "v".repeat(240))),
            field(3, format!("r.io/app{n}@sha256:{n:064}")),
        ];
        field(1, [field(1, format!("sha256:{n:064}")), names.concat(), number(4, n)].concat())
    });
    let answer = peer::message(&images.collect::<Vec<u8>>());
    answer_all(&path, &answer);
    let service = CriImageService::builder(path.to_str().unwrap()).build().unwrap();
    group.throughput(Throughput::Bytes(answer.len() as u64)).sample_size(20);
    group.bench_function("list_images/10000", |b| b.iter(|| service.list_images(&cx).unwrap().len()));
    group.finish();
}

criterion_group!(benches, calls);
criterion_main!(benches);
