//! The programs that are measured.

use std::path::Path;
use std::process::Command;

use super::Outcome;
use super::catalog::Catalog;
use super::peers::{Peer, Program};
use super::roles::{Role, Task, Terms};
use super::server::CATALOG;

#[derive(Clone, Debug)]
pub(crate) enum Contender {
    Ours(Terms),
    Floor(Terms),
    Peer(Peer),
}

const ON_LOOPBACK: [Terms; 2] =
    [Terms { is_durable: false, connections: None }, Terms { is_durable: true, connections: None }];

/// Over a wide area it is connections that count: this crate's default, and half of it.
const WIDE: [Terms; 3] = [
    Terms { is_durable: false, connections: Some(16) },
    Terms { is_durable: true, connections: Some(16) },
    Terms { is_durable: false, connections: Some(8) },
];

impl Contender {
    /// Each of ours beside the floor that it is measured against.
    pub(crate) fn all(is_wide: bool, with_peers: bool) -> Vec<Contender> {
        let terms = if is_wide { &WIDE[..] } else { &ON_LOOPBACK };
        let ours = terms.iter().map(|terms| [Contender::Ours(*terms), Contender::Floor(*terms)]);
        let peers = with_peers.then(|| Program::ALL.into_iter().filter_map(Contender::peer));
        ours.flatten().chain(peers.into_iter().flatten()).collect()
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
            Contender::Ours(terms) => {
                terms.named(if terms.is_durable { "ours, full" } else { "ours, relaxed" })
            }
            Contender::Floor(terms) => terms.named(if terms.is_durable { "floor, flushed" } else { "floor" }),
            Contender::Peer(peer) => peer.name(),
        }
    }

    /// The name of the floor it is measured against.
    pub(crate) fn floor(&self) -> String {
        let terms = match self {
            Contender::Ours(terms) | Contender::Floor(terms) => *terms,
            Contender::Peer(_) => Terms::default(),
        };
        Contender::Floor(terms).name()
    }

    /// Whether what it takes is all taken by the processes that are started.
    pub(crate) fn works_by_itself(&self) -> bool {
        !matches!(self, Contender::Peer(peer) if !peer.works_by_itself())
    }

    /// The processes that pull what the server in `server` has into `folder`, which is there and empty.
    pub(crate) fn commands(&self, catalog: &Catalog, server: &Path, folder: &Path) -> Outcome<Vec<Command>> {
        let task =
            |terms: &Terms| Task { catalog: server.join(CATALOG), folder: folder.to_owned(), terms: *terms };
        let mut commands = match self {
            Contender::Ours(terms) => vec![Role::Ours(task(terms)).command()?],
            Contender::Floor(terms) => vec![Role::Floor(task(terms)).command()?],
            Contender::Peer(peer) => peer.commands(catalog, folder),
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
