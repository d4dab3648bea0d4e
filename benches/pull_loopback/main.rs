//! The cost of a pull: this crate beside a floor, from a registry on the loopback device, or from one behind a
//! proxy that simulates distance (see `wide`), into a new store.
//!
//! The floor is a program that does only the necessary work (see `floor`). Each of them, and the registry, runs in
//! its own process. They take turns, and each run is measured as a whole, start included. `--peers` adds the other
//! pullers of this machine. `--help` lists the options.
//!
//! This is no criterion bench: criterion measures a function that it calls many times in its own process.
//! It cannot take turns between processes, and it reports no ratio of two contenders in the same minute,
//! which is the figure that a noisy machine leaves meaningful.
//!
//! Over a wide area network, round trips and the rate of a connection decide, not the program. There this crate has
//! its default of 16 connections, or half of them, and the floor has as many. The floor is no goal there, but shows
//! where the time goes: it fetches whole blobs, so on work A it waits for the largest layer on one connection, and no
//! manifests, so on work E it sends a third fewer requests and waits for nothing before them.

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

/// The number of images that are pulled at a time.
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
