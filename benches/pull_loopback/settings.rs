//! What is measured, and how often: from the environment and the command line.

use std::env;
use std::path::PathBuf;
use std::str::FromStr;

use super::Outcome;
use super::server::Kind;
use super::works::Work;

pub(crate) const HELP: &str = "\
cargo bench --features testing --bench pull_loopback -- [A] [B] [C] [D] [E] [--peers] [--json]

A to E            only these works
--peers           runs the pullers found on this machine, too, and prints a table for the README
--json            prints every figure for machines

OCI_PULLER_BENCH_SCALE   size of the works, 1 for that of the README; default 0.1
OCI_PULLER_BENCH_ROUNDS  runs of each program on each work; default 5
OCI_PULLER_BENCH_SERVER  nginx or own; default nginx, if it is installed
OCI_PULLER_BENCH_DIR     where to write, on the disk to be measured; default cargo's target folder
";

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) works: Vec<Work>,
    pub(crate) scale: f64,
    pub(crate) rounds: usize,
    pub(crate) server: Kind,
    pub(crate) folder: PathBuf,
    pub(crate) with_peers: bool,
    pub(crate) as_json: bool,
    pub(crate) with_calls: bool,
    pub(crate) needs_help: bool,
}

impl Settings {
    /// Without cargo's `--bench` it is `cargo test` that runs this: then everything is done once and
    /// small, to see that it works.
    pub(crate) fn read(arguments: &[String]) -> Outcome<Self> {
        let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
        if !has("--bench") {
            return Ok(Settings::smallest());
        }
        let chosen: Vec<Work> = arguments.iter().filter_map(|argument| Work::named(argument)).collect();
        Ok(Settings {
            works: if chosen.is_empty() { Work::ALL.to_vec() } else { chosen },
            scale: number("SCALE", 0.1)?,
            rounds: number("ROUNDS", 5)?.max(1),
            server: server()?,
            folder: env::var_os(PREFIX.to_owned() + "DIR").map_or_else(default_folder, PathBuf::from),
            with_peers: has("--peers"),
            as_json: has("--json"),
            with_calls: true,
            needs_help: has("--help"),
        })
    }

    fn smallest() -> Self {
        Settings {
            works: Work::ALL.to_vec(),
            scale: 0.01,
            rounds: 1,
            server: Kind::Own,
            folder: default_folder(),
            with_peers: false,
            as_json: false,
            with_calls: false,
            needs_help: false,
        }
    }
}

const PREFIX: &str = "OCI_PULLER_BENCH_";

fn default_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

fn number<T: FromStr>(name: &str, default: T) -> Outcome<T> {
    match env::var(PREFIX.to_owned() + name) {
        Ok(text) => text.parse().map_err(|_| format!("{PREFIX}{name} is {text:?}, and no number").into()),
        Err(_) => Ok(default),
    }
}

fn server() -> Outcome<Kind> {
    match env::var(PREFIX.to_owned() + "SERVER").as_deref() {
        Ok("nginx") => Ok(Kind::Nginx),
        Ok("own") => Ok(Kind::Own),
        Ok(other) => Err(format!("{PREFIX}SERVER is {other:?}; nginx and own are possible").into()),
        Err(_) => Ok(Kind::found()),
    }
}
