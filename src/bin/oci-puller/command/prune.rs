//! `prune`: removes images that are unused or that must make room.

use std::time::Duration;

use clap::Args;
use oci_puller::PullContext;
use oci_puller::store::{PrunePolicy, Removed};
use serde::Serialize;

use crate::args::{self, StoreArgs, usage};
use crate::exit::Exit;
use crate::output;
use crate::signals::Signals;
use crate::stderr::say;
use crate::stores;
use crate::units::Bytes;

/// Percentages of the disk, as kubelet has them.
const HIGH: u8 = 85;
const LOW: u8 = 80;

const AFTER_HELP: &str = "\
Prints the removed names. With --json:
  names  list of the removed names
  blobs  number of removed blobs
  bytes  bytes that were freed";

/// Remove images that are unused or that must make room
///
/// Removes images not used for a time, and while the disk is too full, the least recently used ones; with
/// them all blobs that no image uses. Pinned images stay.
#[derive(Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct PruneArgs {
    /// Remove images not used for TIME, such as 12h or 30d. Default: none
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    unused_for: Option<Duration>,
    /// Free space if this share of the disk is in use
    #[arg(long, value_name = "PERCENT", default_value_t = HIGH, value_parser = clap::value_parser!(u8).range(..=100))]
    above: u8,
    /// Free space until less than this share is in use. Default: 80, or --above if that is less
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(..=100))]
    below: Option<u8>,
    /// Keep images used less than TIME ago. Default: 2m
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    min_age: Option<Duration>,
    #[command(flatten)]
    store: StoreArgs,
}

/// Prunes the store as the arguments say.
pub(crate) fn run(args: PruneArgs) -> Result<(), Exit> {
    let policy = args.policy()?;
    let Some(store) = stores::open_existing(&args.store.dir()?, None)? else {
        return if args.store.json { print(true, &Removed::default()) } else { Ok(()) };
    };
    let signals = Signals::watch()?;
    let pruned = store.prune(&PullContext::new().with_cancel(signals.token()), &policy);
    signals.check()?;
    print(args.store.json, &pruned?)
}

impl PruneArgs {
    fn policy(&self) -> Result<PrunePolicy, Exit> {
        let below = self.below.unwrap_or(LOW.min(self.above));
        if below > self.above {
            return Err(usage("prune", format!("--below {below} is more than --above {}", self.above)));
        }
        let mut policy = PrunePolicy::default().thresholds(self.above, below);
        if let Some(time) = self.unused_for {
            policy = policy.max_unused(time);
        }
        if let Some(time) = self.min_age {
            policy = policy.min_age(time);
        }
        Ok(policy)
    }
}

fn print(is_json: bool, removed: &Removed) -> Result<(), Exit> {
    if is_json {
        return output::json(&Line { names: &removed.names, blobs: removed.blobs, bytes: removed.bytes });
    }
    removed.names.iter().try_for_each(|name| output::line(name))?;
    say(&format!("{} freed: {} names, {} blobs", Bytes(removed.bytes), removed.names.len(), removed.blobs));
    Ok(())
}

/// The JSON of a removal; `--help` documents it.
#[derive(Serialize)]
struct Line<'a> {
    names: &'a [String],
    blobs: usize,
    bytes: u64,
}
