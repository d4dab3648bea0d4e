//! `prune`: out of the store what has not been used for long, or must make room.

use oci_puller::{PrunePolicy, PullContext, Removed};
use serde::Serialize;

use crate::args::{Args, Token};
use crate::command::existing_store;
use crate::output;
use crate::screen::say;
use crate::signals::Signals;
use crate::stop::Stop;
use crate::units::Bytes;

/// Percentages of the disk, as kubelet has them.
const HIGH: u32 = 85;
const LOW: u32 = 80;

/// Collects images as the arguments say.
pub(crate) fn run(args: &mut Args) -> Result<(), Stop> {
    let policy = policy(args)?;
    let Some(store) = existing_store(&args.store_dir()?)? else {
        return Ok(());
    };
    let signals = Signals::watch()?;
    let pruned = store.prune(&PullContext::new().with_cancel(signals.token()), &policy);
    signals.check()?;
    tell(args.json(), &pruned?)
}

fn policy(args: &mut Args) -> Result<PrunePolicy, Stop> {
    let mut policy = PrunePolicy::default();
    let (mut high, mut low) = (None, None);
    while let Some(token) = args.next()? {
        let option = match token {
            Token::Option(option) => option,
            Token::Word(word) => return Err(args.unknown_word(&word)),
        };
        match option.as_str() {
            "--unused-for" => policy = policy.max_unused(args.duration(&option)?),
            "--min-age" => policy = policy.min_age(args.duration(&option)?),
            "--above" => high = Some(args.number(&option, 0, 100)?),
            "--below" => low = Some(args.number(&option, 0, 100)?),
            _ => return Err(args.unknown_option(&option)),
        }
    }
    let high = high.unwrap_or(HIGH);
    let low = low.unwrap_or(LOW.min(high));
    if low > high {
        return Err(args.usage(format!("--below {low} is more than --above {high}")));
    }
    let percent = |number| u8::try_from(number).unwrap_or(100);
    Ok(policy.thresholds(percent(high), percent(low)))
}

fn tell(is_json: bool, removed: &Removed) -> Result<(), Stop> {
    if is_json {
        return output::json(&Line { names: &removed.names, blobs: removed.blobs, bytes: removed.bytes });
    }
    removed.names.iter().try_for_each(|name| output::line(name))?;
    say(&format!("{} freed: {} names, {} blobs", Bytes(removed.bytes), removed.names.len(), removed.blobs));
    Ok(())
}

/// What went, for programs; `--help` documents it.
#[derive(Serialize)]
struct Line<'a> {
    names: &'a [String],
    blobs: usize,
    bytes: u64,
}
