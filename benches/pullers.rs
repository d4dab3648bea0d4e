//! What a pull costs in each puller when the service does nothing, how that grows with the queue, and what
//! a pull that waits takes of memory; and, where `go` is installed, the same of the pullers as Kubernetes
//! has them (`pullers.go`), round about, in the same run.
//!
//! `cargo bench --bench pullers [-- WORD]` prints the lines in which WORD occurs.

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, unbounded};
use oci_puller::{
    Error, ImageFsInfo, ImageInfo, ImagePuller, ImageRef, ImageService, ImageSpec, ParallelImagePuller,
    PullContext, PullRequest, PulledImage, SerialImagePuller,
};

/// Each is measured this often, by turns with the others.
const TURNS: usize = 5;

/// How long a turn should take about, and how many pulls it should be.
const TURN: Duration = Duration::from_millis(150);
const PULLS_A_TURN: usize = 1_000_000;

/// Answers with the name for an id: at once; or not before its gate is closed, if it has one.
struct Idle {
    gate: Option<Receiver<()>>,
}

impl ImageService for Idle {
    fn pull_image(&self, _: &PullContext, request: &PullRequest) -> Result<PulledImage, Error> {
        if let Some(gate) = &self.gate {
            let _ = gate.recv();
        }
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

#[derive(Clone, Copy)]
enum Kind {
    Parallel(Option<i32>),
    Serial,
}

impl Kind {
    const ALL: [Kind; 5] = [
        Kind::Parallel(Some(1)),
        Kind::Parallel(Some(8)),
        Kind::Parallel(Some(64)),
        Kind::Parallel(None),
        Kind::Serial,
    ];

    fn name(self) -> String {
        match self {
            Kind::Parallel(Some(limit)) => format!("parallel, limit {limit}"),
            Kind::Parallel(None) => "parallel, no limit".into(),
            Kind::Serial => "serial".into(),
        }
    }

    /// As the Go program takes it.
    fn argument(self) -> String {
        match self {
            Kind::Parallel(limit) => limit.unwrap_or(0).to_string(),
            Kind::Serial => "serial".into(),
        }
    }

    fn puller(self, service: Idle) -> Box<dyn ImagePuller> {
        match self {
            Kind::Parallel(limit) => {
                Box::new(ParallelImagePuller::new(service, limit).expect("a limit in range"))
            }
            Kind::Serial => Box::new(SerialImagePuller::new(service).expect("no settings")),
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let word = arguments.iter().find(|argument| !argument.starts_with('-')).map_or("", String::as_str);
    // Not to measure, only to see that it runs, when it is run as a test.
    let is_measured = arguments.iter().any(|argument| argument == "--bench");
    let queued: &[usize] = if is_measured { &[100, 1_000, 10_000, 100_000, 1_000_000] } else { &[100] };
    let go = if is_measured { GoProgram::build() } else { None };
    if go.is_none() {
        println!("go is not installed: nothing to compare with");
    }

    print_row("", "this crate", "Go", "ratio");
    // First, for memory that was given back and is used again is not seen to grow.
    let kind = Kind::Parallel(Some(8));
    let waiting = if is_measured { 100_000 } else { 100 };
    let name = format!("bytes a pull of {waiting} that wait");
    if name.contains(word) {
        let ours = memory_of_a_waiting_pull(kind, waiting);
        print_figures(&name, ours, go.as_ref().map(|go| go.memory(kind, waiting)), 0);
    }

    println!("\nmicroseconds a pull, by how many were queued by one caller");
    for kind in Kind::ALL {
        for &queued in queued {
            let name = format!("{}, {queued} queued", kind.name());
            if name.contains(word) {
                let (ours, theirs) = times_of_a_pull(kind, queued, go.as_ref(), is_measured);
                print_figures(&name, ours, theirs, 3);
            }
        }
    }
}

/// Medians, microseconds a pull: of this crate's puller, and of Go's.
fn times_of_a_pull(
    kind: Kind,
    queued: usize,
    go: Option<&GoProgram>,
    is_measured: bool,
) -> (f64, Option<f64>) {
    let puller = kind.puller(Idle { gate: None });
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let turns = if is_measured { TURNS } else { 1 };
    for _ in 0..turns {
        // The first round, after the others had their turn, is not like those that follow.
        ask(&*puller, queued);
        let begun_at = Instant::now();
        let mut rounds = 0;
        while is_measured && begun_at.elapsed() < TURN && rounds * queued < PULLS_A_TURN || rounds == 0 {
            ours.push(ask(&*puller, queued).as_secs_f64() * 1e6 / queued as f64);
            rounds += 1;
        }
        theirs.extend(go.into_iter().flat_map(|go| go.times(kind, queued, rounds)));
    }
    (median(ours).unwrap_or(f64::NAN), median(theirs))
}

/// Asks for so many pulls, and waits for all results.
fn ask(puller: &dyn ImagePuller, pulls: usize) -> Duration {
    let begun_at = Instant::now();
    let (results, answers) = unbounded();
    for id in 0..pulls as u64 {
        let request = PullRequest::new(id, "registry.example.com/app:v1");
        puller.pull_image(PullContext::new(), request, results.clone());
    }
    for result in answers.iter().take(pulls) {
        black_box(result.outcome.is_ok());
    }
    begun_at.elapsed()
}

fn memory_of_a_waiting_pull(kind: Kind, pulls: usize) -> f64 {
    let (gate, closed) = bounded(0);
    let puller = kind.puller(Idle { gate: Some(closed) });
    let (results, answers) = unbounded();
    let before = resident();
    for id in 0..pulls as u64 {
        let request = PullRequest::new(id, "registry.example.com/app:v1");
        puller.pull_image(PullContext::new(), request, results.clone());
    }
    let taken = resident() - before;
    drop(gate);
    assert_eq!(answers.iter().take(pulls).count(), pulls);
    taken / pulls as f64
}

/// The bytes of memory that this process has in use.
fn resident() -> f64 {
    let statm = fs::read_to_string("/proc/self/statm").expect("/proc is there");
    let pages: f64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * rustix::param::page_size() as f64
}

/// The same pullers in Go, built.
struct GoProgram(PathBuf);

impl GoProgram {
    /// `None` if there is no `go`.
    fn build() -> Option<Self> {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pullers-go");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/pullers.go");
        let built = Command::new("go").arg("build").arg("-o").arg(&program).arg(source).status().ok()?;
        assert!(built.success(), "go builds its program");
        Some(GoProgram(program))
    }

    /// Microseconds a pull, one figure a round.
    fn times(&self, kind: Kind, queued: usize, rounds: usize) -> Vec<f64> {
        let figures = self.run(&["time", &kind.argument(), &queued.to_string(), &(rounds + 1).to_string()]);
        figures.into_iter().skip(1).map(|nanoseconds| nanoseconds / 1e3).collect()
    }

    fn memory(&self, kind: Kind, queued: usize) -> f64 {
        self.run(&["memory", &kind.argument(), &queued.to_string()])[0]
    }

    fn run(&self, arguments: &[&str]) -> Vec<f64> {
        let output = Command::new(&self.0).args(arguments).output().expect("the Go program runs");
        let figures = String::from_utf8(output.stdout).expect("figures");
        figures.lines().map(|line| line.parse().expect("a figure")).collect()
    }
}

fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}

fn print_figures(name: &str, ours: f64, theirs: Option<f64>, decimals: usize) {
    let [theirs, ratio] = match theirs {
        Some(theirs) => [format!("{theirs:.decimals$}"), format!("{:.2}", ours / theirs)],
        None => Default::default(),
    };
    print_row(name, &format!("{ours:.decimals$}"), &theirs, &ratio);
}

fn print_row(name: &str, ours: &str, theirs: &str, ratio: &str) {
    println!("{name:<36} {ours:>10} {theirs:>10} {ratio:>7}");
}
