//! The command `oci-puller`: pulls images from registries into a store on disk and manages that store.

mod args;
mod certificates;
mod command;
mod exit;
mod names;
mod output;
mod progress;
mod pull_all;
mod registry_args;
mod signals;
mod signature_args;
mod stderr;
mod units;

use std::process::ExitCode;

use clap::Parser;

use args::Cli;
use exit::Exit;

fn main() -> ExitCode {
    stderr::show_log();
    match Cli::try_parse().map_err(Exit::Usage).and_then(|cli| command::run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => exit.report(),
    }
}
