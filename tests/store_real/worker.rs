//! Processes that work on a store until they are killed: this test, started again as a worker.

use std::fs;
use std::io::BufReader;
use std::process::{Command, ExitCode};
use std::time::Duration;

use oci_puller::store::PrunePolicy;
use oci_puller::{Error, Store};

use crate::archives::{Image, image};
use crate::{check, cx, tool, users};

/// Set in these processes: what they are to do.
pub(crate) const WORK: &str = "OCI_PULLER_TEST_WORKER";

/// A process that does this.
pub(crate) fn start(work: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(WORK, work);
    command
}

/// The same under another tool, like `strace`.
pub(crate) fn start_under(line: &str, work: &str) -> Command {
    let mut command = tool(line);
    command.arg(std::env::current_exe().unwrap()).env(WORK, work);
    command
}

/// Does `import DIR ARCHIVE…`, `read DIR`, `hold DIR` or `random DIR SEED`.
pub(crate) fn run(work: &str) -> ExitCode {
    let mut words = work.split(' ');
    let (kind, dir) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let outcome = match kind {
        "import" => import_all(dir, words),
        "read" => users::read(dir),
        "hold" => users::hold(dir),
        _ => work_at_random(dir, words.next().and_then(|seed| seed.parse().ok()).unwrap_or(0)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Imports one archive after the other, and says so when each is answered.
fn import_all<'a>(dir: &str, archives: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let told = |error: Error| format!("{:?}: {error}", error.kind());
    let store = Store::open(dir).map_err(told)?;
    for path in archives {
        let archive = fs::File::open(path).map_err(|error| error.to_string())?;
        store.import(&cx(), BufReader::new(archive)).map_err(told)?;
        println!("{path}");
    }
    Ok(())
}

/// Pulls, removes and prunes until it is killed. Only it changes its own names: what it has pulled
/// must be there until it removes it.
fn work_at_random(dir: &str, seed: u64) -> Result<(), String> {
    let told = |error: Error| format!("{:?}: {error}", error.kind());
    let store = Store::open(dir).map_err(told)?;
    let names: Vec<_> = (0..4).map(|at| format!("example.com/worker-{seed}:{at}")).collect();
    let mut random = fastrand::Rng::with_seed(seed ^ u64::from(std::process::id()));
    let mut there: Vec<Image> = Vec::new();
    loop {
        let name = random.choice(&names).unwrap();
        match random.u8(..10) {
            0..6 => {
                let own = vec![random.u8(..3); 40_000];
                let pulled = image(name, &[b"a layer that all share", &[random.u8(..2)], &own]);
                store.import(&cx(), &pulled.archive[..]).map_err(told)?;
                there.retain(|image| image.name != *name);
                there.push(pulled);
            }
            6..8 => {
                there.retain(|image| image.name != *name);
                store.remove(&cx(), name).map_err(told)?;
            }
            8 => {
                let policy = PrunePolicy::default().min_age(Duration::ZERO).thresholds(100, 100);
                store.prune(&cx(), &policy).map_err(told)?;
            }
            _ => drop(store.images().map_err(told)?),
        }
        there.iter().try_for_each(|image| check(&store, image))?;
    }
}
