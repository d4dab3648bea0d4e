//! The roles in which this program starts itself again: each measured program and the server has its own process.

use std::path::PathBuf;
use std::process::Command;

use super::wide::{self, WideArea};
use super::works::Work;
use super::{Outcome, floor, measure, ours, server};

/// The first argument of a process that has a role.
const AS: &str = "--as";

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Role {
    /// Serves a work's images from memory.
    Registry { work: Work, scale: f64, folder: PathBuf },
    /// Lays a work's images out for nginx.
    Tree { work: Work, scale: f64, folder: PathBuf, host: String },
    /// Simulates a distant server.
    Proxy { server: String, area: WideArea },
    /// Pulls with this crate.
    Ours(Task),
    /// Does the necessary work only: the floor.
    Floor(Task),
    /// Uses memory, bytes.
    Touch { bytes: u64 },
}

/// The arguments of a measured program.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Task {
    pub(crate) catalog: PathBuf,
    /// The file for its list.
    pub(crate) folder: PathBuf,
    pub(crate) terms: Terms,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Terms {
    pub(crate) is_durable: bool,
    /// The maximum number of connections to the server; empty for the default.
    pub(crate) connections: Option<usize>,
}

impl Terms {
    /// The name of a variant of a program.
    pub(crate) fn named(self, name: &str) -> String {
        match self.connections {
            Some(number) => format!("{name}, {number} connections"),
            None => name.to_owned(),
        }
    }
}

impl Role {
    /// Returns the process that has this role.
    pub(crate) fn command(&self) -> Outcome<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(AS);
        match self {
            Role::Registry { work, scale, folder } => {
                command.args(["registry", work.letter(), &scale.to_string()]).arg(folder)
            }
            Role::Tree { work, scale, folder, host } => {
                command.args(["tree", work.letter(), &scale.to_string()]).arg(folder).arg(host)
            }
            Role::Proxy { server, area: WideArea { round_trip, rate } } => {
                command.args(["proxy", server, &round_trip.to_string(), &rate.to_string()])
            }
            Role::Ours(task) => task.add_to(command.arg("ours")),
            Role::Floor(task) => task.add_to(command.arg("floor")),
            Role::Touch { bytes } => command.args(["touch", &bytes.to_string()]),
        };
        Ok(command)
    }

    /// Returns the role of this process, if it has one.
    pub(crate) fn read(arguments: &[String]) -> Option<Role> {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Some(match words.as_slice() {
            [AS, "registry", work, scale, folder] => {
                Role::Registry { work: Work::named(work)?, scale: scale.parse().ok()?, folder: folder.into() }
            }
            [AS, "tree", work, scale, folder, host] => Role::Tree {
                work: Work::named(work)?,
                scale: scale.parse().ok()?,
                folder: folder.into(),
                host: (*host).to_owned(),
            },
            [AS, "proxy", server, round_trip, rate] => Role::Proxy {
                server: (*server).to_owned(),
                area: WideArea { round_trip: round_trip.parse().ok()?, rate: rate.parse().ok()? },
            },
            [AS, "ours", task @ ..] => Role::Ours(Task::read(task)?),
            [AS, "floor", task @ ..] => Role::Floor(Task::read(task)?),
            [AS, "touch", bytes] => Role::Touch { bytes: bytes.parse().ok()? },
            _ => return None,
        })
    }

    pub(crate) fn play(&self) -> Outcome<()> {
        match self {
            Role::Registry { work, scale, folder } => server::serve(*work, *scale, folder),
            Role::Tree { work, scale, folder, host } => server::lay_out(*work, *scale, folder, host),
            Role::Proxy { server, area } => wide::lead_to(server, *area),
            Role::Ours(task) => ours::pull(task),
            Role::Floor(task) => floor::fetch(task),
            Role::Touch { bytes } => measure::touch(*bytes),
        }
    }
}

const DURABLE: &str = "durable";

impl Task {
    fn add_to<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let Terms { is_durable, connections } = self.terms;
        let durability = if is_durable { DURABLE } else { "relaxed" };
        let connections = connections.map_or_else(|| "any".to_owned(), |number| number.to_string());
        command.arg(&self.catalog).arg(&self.folder).args([durability, &connections])
    }

    fn read(words: &[&str]) -> Option<Task> {
        let [catalog, folder, durability, connections] = words else { return None };
        Some(Task {
            catalog: catalog.into(),
            folder: folder.into(),
            terms: Terms { is_durable: *durability == DURABLE, connections: connections.parse().ok() },
        })
    }
}
