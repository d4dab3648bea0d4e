//! What a pull costs: this crate beside a floor, from a registry on the loopback device, or from one as
//! far away as a proxy makes it (see `wide`), into a store that is not there yet.
//!
//! The floor is a bare program that does only what must be done (see `floor`). Both have a process of
//! their own, and so has the registry; they take turns, and each is measured as a whole, its start
//! included. With `--peers` the other pullers of this machine take part. `--help` tells the rest.
//!
//! This is no criterion bench: criterion measures a function that it calls many times in its own process.
//! It cannot take turns between processes, and it reports no ratio of two contenders in the same minute,
//! which is the figure that a noisy machine leaves meaningful.
//!
//! Over a wide area it is round trips and the rate of a connection that cost, not what a program does. So
//! there this crate has its default of 16 connections, or half of them, and the floor has as many. It is
//! no goal there, but tells where the time goes: it fetches whole blobs, so on work A it waits for the
//! largest layer on one connection, and no manifests, so on work E it has a third less to ask for, and
//! nothing to wait for before it asks.

mod catalog;
mod contenders;
mod floor;
mod gzip;
mod measure;
mod ours;
mod peers;
mod report;
mod roles;
mod rounds;
mod server;
mod settings;
mod units;
mod wide;
mod works;

use std::process::ExitCode;

use contenders::Contender;
use roles::Role;
use rounds::Folders;
use settings::Settings;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T> = Result<T, Error>;

/// Images that are pulled at a time.
const AT_ONCE: usize = 8;

const MIB: u64 = 1024 * 1024;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match Role::read(&arguments) {
        Some(role) => role.play(),
        None => Settings::read(&arguments).and_then(|all| all.iter().try_for_each(compare)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pull_loopback: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(settings: &Settings) -> Outcome<()> {
    if settings.needs_help {
        print!("{}", settings::HELP);
        return Ok(());
    }
    let folders = Folders::within(&settings.folder)?;
    let contenders = Contender::all(settings.wide.is_some(), settings.with_peers);
    if !settings.as_json {
        println!("\n{}", report::heading(settings));
    }
    let mut all = Vec::new();
    for work in &settings.works {
        let measured = rounds::measure(*work, &contenders, settings, &folders)?;
        if !settings.as_json {
            print!("{}", report::table(&measured));
        }
        all.push(measured);
    }
    match (settings.as_json, settings.with_peers) {
        (true, _) => println!("{:#}", report::json(settings, &all)),
        (false, true) => println!("\n{}", report::markdown(&all)),
        (false, false) => {}
    }
    Ok(())
}
