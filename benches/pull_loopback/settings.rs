//! The measurements and their number, from the environment and the command line.

use std::env;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;

use super::Outcome;
use super::server::Kind;
use super::wide::WideArea;
use super::works::Work;

pub(crate) const HELP: &str = "\
cargo bench --features testing --bench pull_loopback -- [A] [B] [C] [D] [E] [--wide] [--peers] [--json]

A to E            only these works; otherwise all, over a wide area A, B and E
--wide            as if the registry were far away, each connection with a round trip and a rate
--peers           runs the pullers found on this machine, too, and prints a table for the README
--json            prints every figure for machines

OCI_PULLER_BENCH_SCALE   size of the works, 1 for that of the README; default 0.1
OCI_PULLER_BENCH_ROUNDS  runs of each program on each work; default 5
OCI_PULLER_BENCH_SERVER  nginx or own; default nginx, if it is installed
OCI_PULLER_BENCH_RTT     the round trip over a wide area, ms; default 20
OCI_PULLER_BENCH_RATE    the rate of a connection there, Mbit/s; default 100
OCI_PULLER_BENCH_DIR     where to write, on the disk to be measured; default cargo's target folder
";

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) works: Vec<Work>,
    pub(crate) scale: f64,
    pub(crate) rounds: usize,
    pub(crate) server: Kind,
    /// The simulated line, if it is not loopback alone.
    pub(crate) wide: Option<WideArea>,
    pub(crate) folder: PathBuf,
    pub(crate) with_peers: bool,
    pub(crate) as_json: bool,
    pub(crate) with_calls: bool,
    /// Whether all runs get the same start, which takes longer than a small run.
    pub(crate) with_care: bool,
    pub(crate) needs_help: bool,
}

impl Settings {
    /// The measurements. Without cargo's `--bench` it is `cargo test` that runs this: then
    /// everything is done once and small, near and far, to see that it works.
    pub(crate) fn read(arguments: &[String]) -> Outcome<Vec<Self>> {
        let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
        if !has("--bench") {
            return Ok(vec![Settings::smallest(), Settings::smallest_wide()]);
        }
        let is_wide = has("--wide");
        let chosen: Vec<Work> = arguments.iter().filter_map(|argument| Work::named(argument)).collect();
        let settings = Settings {
            works: match (chosen.is_empty(), is_wide) {
                (false, _) => chosen,
                (true, false) => Work::ALL.to_vec(),
                (true, true) => WIDE.to_vec(),
            },
            scale: number("SCALE", 0.1)?,
            rounds: number("ROUNDS", 5)?.max(1),
            server: server()?,
            wide: is_wide.then(wide).transpose()?,
            folder: env::var_os(PREFIX.to_owned() + "DIR").map_or_else(default_folder, PathBuf::from),
            with_peers: has("--peers"),
            as_json: has("--json"),
            // Each call that strace stops for would be a delay more.
            with_calls: !is_wide,
            with_care: true,
            needs_help: has("--help"),
        };
        Ok(vec![settings])
    }

    fn smallest() -> Self {
        Settings {
            works: Work::ALL.to_vec(),
            scale: 0.01,
            rounds: 1,
            server: Kind::Own,
            wide: None,
            folder: default_folder(),
            with_peers: false,
            as_json: false,
            with_calls: false,
            with_care: false,
            needs_help: false,
        }
    }

    fn smallest_wide() -> Self {
        let area = WideArea { round_trip: 1, rate: RATE };
        Settings { works: vec![Work::B], wide: Some(area), ..Settings::smallest() }
    }
}

const PREFIX: &str = "OCI_PULLER_BENCH_";
/// What a wide area shows: the others are A again, only longer.
const WIDE: [Work; 3] = [Work::A, Work::B, Work::E];
/// Mbit/s.
const RATE: NonZeroU32 = NonZeroU32::new(100).unwrap();

fn default_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

fn number<T: FromStr>(name: &str, default: T) -> Outcome<T> {
    match env::var(PREFIX.to_owned() + name) {
        Ok(text) => {
            text.parse().map_err(|_| format!("{PREFIX}{name} is {text:?}, and no such number").into())
        }
        Err(_) => Ok(default),
    }
}

fn wide() -> Outcome<WideArea> {
    Ok(WideArea { round_trip: number("RTT", 20)?, rate: number("RATE", RATE)? })
}

fn server() -> Outcome<Kind> {
    match env::var(PREFIX.to_owned() + "SERVER").as_deref() {
        Ok("nginx") => Ok(Kind::Nginx),
        Ok("own") => Ok(Kind::Own),
        Ok(other) => Err(format!("{PREFIX}SERVER is {other:?}; nginx and own are possible").into()),
        Err(_) => Ok(Kind::found()),
    }
}
