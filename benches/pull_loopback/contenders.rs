//! Who is measured.

use std::path::Path;
use std::process::Command;

use oci_puller::Durability;

use super::catalog::Catalog;
use super::peers::{Peer, Program};
use super::server::CATALOG;
use super::{Outcome, Role};

#[derive(Clone, Debug)]
pub(crate) enum Contender {
    Ours(Durability),
    Floor { is_durable: bool },
    Peer(Peer),
}

impl Contender {
    /// Each of ours beside the floor that it is measured against.
    pub(crate) fn all(with_peers: bool) -> Vec<Contender> {
        let ours = [
            Contender::Ours(Durability::Relaxed),
            Contender::Floor { is_durable: false },
            Contender::Ours(Durability::Full),
            Contender::Floor { is_durable: true },
        ];
        let peers = with_peers.then(|| Program::ALL.into_iter().filter_map(Contender::peer));
        ours.into_iter().chain(peers.into_iter().flatten()).collect()
    }

    fn peer(program: Program) -> Option<Contender> {
        let peer = program.find();
        if peer.is_none() {
            eprintln!("{} is not here, or cannot be run: left out", program.name());
        }
        peer.map(Contender::Peer)
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Contender::Ours(Durability::Relaxed) => "ours, relaxed".into(),
            Contender::Ours(_) => "ours, full".into(),
            Contender::Floor { is_durable: false } => "floor".into(),
            Contender::Floor { is_durable: true } => "floor, flushed".into(),
            Contender::Peer(peer) => peer.name(),
        }
    }

    /// The name of the floor it is measured against.
    pub(crate) fn floor(&self) -> String {
        let is_durable =
            matches!(self, Contender::Ours(Durability::Full) | Contender::Floor { is_durable: true });
        Contender::Floor { is_durable }.name()
    }

    /// Whether what it takes is all taken by the processes that are started.
    pub(crate) fn works_by_itself(&self) -> bool {
        !matches!(self, Contender::Peer(peer) if !peer.works_by_itself())
    }

    /// The processes that pull what the server in `server` has into `folder`, which is there and empty.
    pub(crate) fn commands(&self, catalog: &Catalog, server: &Path, folder: &Path) -> Outcome<Vec<Command>> {
        let (catalog_file, folder) = (server.join(CATALOG), folder.to_owned());
        let mut commands = match self {
            Contender::Ours(durability) => {
                let is_durable = *durability == Durability::Full;
                vec![Role::Ours { catalog: catalog_file, folder, is_durable }.command()?]
            }
            Contender::Floor { is_durable } => {
                vec![Role::Floor { catalog: catalog_file, folder, is_durable: *is_durable }.command()?]
            }
            Contender::Peer(peer) => peer.commands(catalog, &folder),
        };
        for command in &mut commands {
            command.env("NO_PROXY", "127.0.0.1");
        }
        Ok(commands)
    }

    /// What makes the next run begin with nothing.
    pub(crate) fn clean_up(&self, catalog: &Catalog) -> Option<Command> {
        match self {
            Contender::Peer(peer) => peer.clean_up(catalog),
            _ => None,
        }
    }
}
