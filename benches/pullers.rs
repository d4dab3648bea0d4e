//! What a pull costs in each puller when the service does nothing: for askers that wait for each result,
//! and for one caller that queues many.

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_channel::unbounded;
use oci_puller::{
    Error, ImageFsInfo, ImageInfo, ImagePuller, ImageRef, ImageService, ImageSpec, ParallelImagePuller,
    PullContext, PullRequest, PulledImage, SerialImagePuller,
};

/// Answers at once, with the name for an id.
struct Idle;

impl ImageService for Idle {
    fn pull_image(&self, _: &PullContext, request: &PullRequest) -> Result<PulledImage, Error> {
        Ok(PulledImage::new(ImageRef::new(request.image.image.as_str())))
    }
    fn image_size(&self, _: &PullContext, _: &ImageSpec) -> Result<u64, Error> {
        Ok(1)
    }
    fn image_ref(&self, _: &PullContext, _: &ImageSpec) -> Result<Option<ImageRef>, Error> {
        Ok(None)
    }
    fn list_images(&self, _: &PullContext) -> Result<Vec<ImageInfo>, Error> {
        Ok(Vec::new())
    }
    fn remove_image(&self, _: &PullContext, _: &ImageSpec) -> Result<(), Error> {
        Ok(())
    }
    fn image_fs_info(&self, _: &PullContext) -> Result<ImageFsInfo, Error> {
        Ok(ImageFsInfo::default())
    }
}

type Make = fn() -> Box<dyn ImagePuller>;

/// The kinds and limits that are measured.
const PULLERS: [(&str, Make); 5] = [
    ("parallel, limit 1", || parallel(Some(1))),
    ("parallel, limit 8", || parallel(Some(8))),
    ("parallel, limit 64", || parallel(Some(64))),
    ("parallel, no limit", || parallel(None)),
    ("serial", || Box::new(SerialImagePuller::new(Idle).expect("a thread"))),
];

fn parallel(limit: Option<i32>) -> Box<dyn ImagePuller> {
    Box::new(ParallelImagePuller::new(Idle, limit).expect("a limit in range"))
}

/// Each asker waits for its result before it asks again; the time is that of one pull.
fn round_trips(c: &mut Criterion) {
    let mut group = c.benchmark_group("round trip");
    group.throughput(Throughput::Elements(1));
    for (name, make) in PULLERS {
        for askers in [1, 8] {
            let puller = make();
            let parameters = format!("{name}, askers {askers}");
            group.bench_function(BenchmarkId::from_parameter(parameters), |b| {
                b.iter_custom(|pulls| ask_in_turn(&*puller, askers, pulls));
            });
        }
    }
    group.finish();
}

/// The time that `pulls` pulls take, divided among the askers.
fn ask_in_turn(puller: &dyn ImagePuller, askers: u64, pulls: u64) -> Duration {
    let begun_at = Instant::now();
    thread::scope(|scope| {
        for asker in 0..askers {
            let own = pulls / askers + u64::from(asker < pulls % askers);
            scope.spawn(move || {
                let (results, answers) = unbounded();
                for id in 0..own {
                    puller.pull_image(PullContext::new(), request(id), results.clone());
                    black_box(answers.recv().expect("a result").outcome.is_ok());
                }
            });
        }
    });
    begun_at.elapsed()
}

/// One caller asks for many pulls, and then waits for all results.
fn queued(c: &mut Criterion) {
    let mut group = c.benchmark_group("queued");
    group.sample_size(10);
    for (name, make) in PULLERS {
        for queued in [100, 10_000, 1_000_000] {
            // Without a limit nothing is queued: a million pulls are a million threads.
            if name == "parallel, no limit" && queued > 10_000 {
                continue;
            }
            let puller = make();
            group.throughput(Throughput::Elements(queued));
            group.bench_function(BenchmarkId::from_parameter(format!("{name}, queued {queued}")), |b| {
                b.iter(|| ask_for_many(&*puller, queued));
            });
        }
    }
    group.finish();
}

fn ask_for_many(puller: &dyn ImagePuller, pulls: u64) {
    let (results, answers) = unbounded();
    for id in 0..pulls {
        puller.pull_image(PullContext::new(), request(id), results.clone());
    }
    drop(results);
    assert_eq!(answers.iter().filter(|result| result.outcome.is_ok()).count() as u64, pulls);
}

fn request(id: u64) -> PullRequest {
    PullRequest::new(id, "registry.example.com/app:v1")
}

criterion_group!(benches, round_trips, queued);
criterion_main!(benches);
