//! `tags`: the tags of a repository.

use clap::Args;
use serde::Serialize;

use crate::exit::Exit;
use crate::output;
use crate::registry_args::RegistryArgs;
use crate::remote::Remote;
use crate::stderr::say;

const AFTER_HELP: &str = "\
With --json, one object:
  repository   as it was given
  tags         list of the tags, in the order of the registry
  is_complete  false if --limit left tags out

Examples:
  oci-puller tags alpine
  oci-puller tags --limit 20 ghcr.io/team/app";

/// List the tags of a repository, in the order of its registry
#[derive(Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct TagsArgs {
    /// [HOST[:PORT]/]NAME, such as alpine or ghcr.io/team/app
    repository: String,
    /// List at most N tags. Default: all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Print an object in place of a line for each tag; --help lists the fields
    #[arg(long, help_heading = "Common options")]
    json: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Lists the tags of the repository that the arguments name.
pub(crate) fn run(args: &TagsArgs) -> Result<(), Exit> {
    let remote = Remote::new(&args.repository, None, &args.registry)?;
    let limit = args.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let list = remote.ask(|service, cx, request| service.tags(cx, request, limit))?;
    if args.json {
        return output::json(&Line {
            repository: &args.repository,
            tags: &list.tags,
            is_complete: list.is_complete,
        });
    }
    list.tags.iter().try_for_each(|tag| output::line(tag))?;
    if !list.is_complete {
        say(&format!("there are more than these {} tags", list.tags.len()));
    }
    Ok(())
}

/// The JSON of a list of tags; `--help` documents it.
#[derive(Serialize)]
struct Line<'a> {
    repository: &'a str,
    tags: &'a [String],
    is_complete: bool,
}
