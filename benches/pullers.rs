//! What a pull costs in each puller when the service does nothing, and how that grows with the queue.

use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_channel::unbounded;
use oci_puller::{
    Error, ImageFsInfo, ImageInfo, ImagePuller, ImageRef, ImageService, ImageSpec, ParallelImagePuller,
    PullContext, PullRequest, PulledImage, SerialImagePuller,
};

/// Answers at once, with the name for an id, as the Go program that this is measured beside does.
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

/// Asks for `pulls` from each of `callers` threads, then waits for all results.
fn ask(puller: &Arc<dyn ImagePuller>, callers: u64, pulls: u64) -> Duration {
    let begun_at = Instant::now();
    thread::scope(|scope| {
        for caller in 0..callers {
            scope.spawn(move || {
                let (results, answers) = unbounded();
                for id in 0..pulls {
                    let request = PullRequest::new(caller * pulls + id, "registry.example.com/app:v1");
                    puller.pull_image(PullContext::new(), request, results.clone());
                }
                for result in answers.iter().take(pulls as usize) {
                    black_box(result.outcome.is_ok());
                }
            });
        }
    });
    begun_at.elapsed()
}

fn pullers() -> Vec<(String, Arc<dyn ImagePuller>)> {
    let parallel = [None, Some(1), Some(8), Some(64)].map(|limit| {
        let name = limit.map_or("parallel, no limit".to_owned(), |limit| format!("parallel, limit {limit}"));
        (
            name,
            Arc::new(ParallelImagePuller::new(Idle, limit).expect("a limit in range"))
                as Arc<dyn ImagePuller>,
        )
    });
    let serial: Arc<dyn ImagePuller> = Arc::new(SerialImagePuller::new(Idle).expect("no settings"));
    parallel.into_iter().chain([("serial".to_owned(), serial)]).collect()
}

fn cost_of_a_pull(c: &mut Criterion) {
    const PULLS: u64 = 10_000;
    for callers in [1, 4] {
        let mut group = c.benchmark_group(format!("{PULLS} pulls asked by {callers}"));
        group.throughput(Throughput::Elements(PULLS)).sample_size(20);
        for (name, puller) in pullers() {
            group.bench_function(name, |bench| {
                bench.iter_custom(|rounds| (0..rounds).map(|_| ask(&puller, callers, PULLS / callers)).sum());
            });
        }
        group.finish();
    }
}

fn growth_with_the_queue(c: &mut Criterion) {
    let mut group = c.benchmark_group("queued by one caller, limit 8");
    group.sample_size(10);
    let puller: Arc<dyn ImagePuller> =
        Arc::new(ParallelImagePuller::new(Idle, Some(8)).expect("a limit in range"));
    for pulls in [100, 1_000, 10_000, 100_000] {
        group.throughput(Throughput::Elements(pulls));
        group.bench_with_input(BenchmarkId::from_parameter(pulls), &pulls, |bench, &pulls| {
            bench.iter_custom(|rounds| (0..rounds).map(|_| ask(&puller, 1, pulls)).sum());
        });
    }
    group.finish();
}

criterion_group!(benches, cost_of_a_pull, growth_with_the_queue);
criterion_main!(benches);
