//! This program starts itself again in other roles, so that each that is measured, and the server, is a
//! process of its own.

use std::path::PathBuf;
use std::process::Command;

use oci_puller::Durability;

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
    /// Pulls with this crate.
    Ours { catalog: PathBuf, folder: PathBuf, is_durable: bool },
    /// Does what must be done, and nothing else.
    Floor { catalog: PathBuf, folder: PathBuf, is_durable: bool },
    /// Uses memory, bytes.
    Touch { bytes: u64 },
}

impl Role {
    /// The process that has this role.
    pub(crate) fn command(&self) -> Outcome<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(AS);
        let durable = |is_durable: bool| if is_durable { "durable" } else { "relaxed" };
        match self {
            Role::Registry { work, scale, folder } => {
                command.args(["registry", work.letter(), &scale.to_string()]).arg(folder)
            }
            Role::Tree { work, scale, folder, host } => {
                command.args(["tree", work.letter(), &scale.to_string()]).arg(folder).arg(host)
            }
            Role::Ours { catalog, folder, is_durable } => {
                command.arg("ours").arg(catalog).arg(folder).arg(durable(*is_durable))
            }
            Role::Floor { catalog, folder, is_durable } => {
                command.arg("floor").arg(catalog).arg(folder).arg(durable(*is_durable))
            }
            Role::Touch { bytes } => command.args(["touch", &bytes.to_string()]),
        };
        Ok(command)
    }

    /// The role that this process has, if it has one.
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
            [AS, "ours", catalog, folder, durability] => Role::Ours {
                catalog: catalog.into(),
                folder: folder.into(),
                is_durable: *durability == "durable",
            },
            [AS, "floor", catalog, folder, durability] => Role::Floor {
                catalog: catalog.into(),
                folder: folder.into(),
                is_durable: *durability == "durable",
            },
            [AS, "touch", bytes] => Role::Touch { bytes: bytes.parse().ok()? },
            _ => return None,
        })
    }

    pub(crate) fn play(&self) -> Outcome<()> {
        match self {
            Role::Registry { work, scale, folder } => server::serve(*work, *scale, folder),
            Role::Tree { work, scale, folder, host } => server::lay_out(*work, *scale, folder, host),
            Role::Ours { catalog, folder, is_durable: true } => ours::pull(catalog, folder, Durability::Full),
            Role::Ours { catalog, folder, is_durable: false } => {
                ours::pull(catalog, folder, Durability::Relaxed)
            }
            Role::Floor { catalog, folder, is_durable } => floor::fetch(catalog, folder, *is_durable),
            Role::Touch { bytes } => measure::touch(*bytes),
        }
    }
}
