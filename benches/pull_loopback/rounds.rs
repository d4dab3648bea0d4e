//! The order of the measurements: work by work, and for each work round by round, so that other load of the machine
//! affects all programs alike.

use std::cell::Cell;
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::contenders::Contender;
use super::measure::{self, Calls, Usage};
use super::server::Server;
use super::settings::Settings;
use super::works::Work;
use super::{Error, MIB, Outcome};

/// The results of one work.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) work: Work,
    pub(crate) title: String,
    pub(crate) figures: Vec<Figures>,
}

/// The results of one program.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) contender: Contender,
    /// One for each round.
    pub(crate) runs: Vec<Usage>,
    pub(crate) calls: Option<Calls>,
}

/// Measures all programs on one work.
pub(crate) fn measure(
    work: Work,
    contenders: &[Contender],
    settings: &Settings,
    folders: &Folders,
) -> Outcome<Measured> {
    let place = folders.fresh()?;
    let mut server = settings.server.start(work, settings.scale, &place)?;
    if let Some(area) = settings.wide {
        server.move_away(area, &place)?;
    }
    let bytes = work.bytes(settings.scale);
    let ground = Ground { server: &server, place: &place, folders, bytes, with_care: settings.with_care };
    let mut all = Vec::new();
    for contender in contenders {
        match ground.warm_up(contender, settings.with_calls && measure::can_trace()) {
            Ok(calls) => all.push(Figures { contender: contender.clone(), runs: Vec::new(), calls }),
            Err(error) => leave_out(contender, error)?,
        }
    }
    for round in 0..settings.rounds {
        show(&format!("{}, round {} of {}", work.letter(), round + 1, settings.rounds));
        // Forth and back, so that no program always follows the same one.
        let mut order: Vec<_> = all.iter_mut().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for figures in order {
            match ground.run(&figures.contender) {
                Ok(usage) => figures.runs.push(usage),
                Err(error) => leave_out(&figures.contender, error)?,
            }
        }
    }
    show("");
    all.retain(|figures| figures.runs.len() == settings.rounds);
    Ok(Measured { work, title: work.title(settings.scale), figures: all })
}

/// Only a peer may fail.
fn leave_out(contender: &Contender, error: Error) -> Outcome<()> {
    let Contender::Peer(peer) = contender else { return Err(error) };
    eprintln!("{} is left out: {error}", peer.name());
    Ok(())
}

/// Shows the progress in the terminal's last line, if there is a terminal.
fn show(text: &str) {
    if io::stderr().is_terminal() {
        eprint!("\r{text:30}\r");
    }
}

/// The shared state of the runs on one work.
struct Ground<'a> {
    server: &'a Server,
    /// The server's folder.
    place: &'a Path,
    folders: &'a Folders,
    bytes: u64,
    with_care: bool,
}

impl Ground<'_> {
    /// A first run, which is not timed, and counts system calls where possible.
    fn warm_up(&self, contender: &Contender, with_calls: bool) -> Outcome<Option<Calls>> {
        if with_calls {
            return self.trace(contender).map(Some);
        }
        self.run(contender).map(|_| None)
    }

    fn run(&self, contender: &Contender) -> Outcome<Usage> {
        self.in_fresh_folder(contender, |folder| {
            let commands = contender.commands(&self.server.catalog, self.place, folder)?;
            if self.with_care {
                measure::settle(256 * MIB + self.bytes * 5 / 2)?;
            }
            measure::run(commands)
        })
    }

    fn trace(&self, contender: &Contender) -> Outcome<Calls> {
        let logs = self.folders.fresh()?;
        self.in_fresh_folder(contender, |folder| {
            measure::trace(&contender.commands(&self.server.catalog, self.place, folder)?, &logs)
        })
    }

    fn in_fresh_folder<T>(&self, contender: &Contender, run: impl FnOnce(&Path) -> Outcome<T>) -> Outcome<T> {
        let folder = self.folders.fresh()?;
        let outcome = run(&folder)?;
        if let Some(command) = contender.clean_up(&self.server.catalog) {
            measure::run_one(command)?;
        }
        if self.has_large_files() {
            fs::remove_dir_all(folder)?;
        }
        Ok(outcome)
    }

    /// Removes large files after each run, so that the disk does not fill up. Small ones stay to the end: ext4
    /// creates files ten times more slowly right after it removed as many.
    fn has_large_files(&self) -> bool {
        let files: usize = self.server.catalog.images.iter().map(|image| image.blobs.len()).sum();
        self.bytes / files.max(1) as u64 >= MIB
    }
}

/// New folders, all removed at the end.
#[derive(Debug)]
pub(crate) struct Folders {
    root: TempDir,
    made: Cell<usize>,
}

impl Folders {
    pub(crate) fn within(parent: &Path) -> Outcome<Self> {
        fs::create_dir_all(parent)?;
        let root = tempfile::Builder::new().prefix("pull_loopback-").tempdir_in(parent.canonicalize()?)?;
        Ok(Folders { root, made: Cell::new(0) })
    }

    /// Returns a new, empty folder.
    fn fresh(&self) -> Outcome<PathBuf> {
        let number = self.made.replace(self.made.get() + 1);
        let folder = self.root.path().join(number.to_string());
        fs::create_dir(&folder)?;
        Ok(folder)
    }
}
