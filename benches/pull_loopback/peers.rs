//! Other pullers, as far as this machine has them, with the same work: pull every image of a work over
//! plain HTTP into a new folder.
//!
//! crane takes all images in one call. The others take one image in a call, so eight processes run in parallel. Each
//! image becomes its own layout, because two processes that write one `index.json` lose each other's names. skopeo
//! puts the blobs of all images into one folder, and fetches no present blob. `ctr` passes the work to containerd,
//! whose processor time and memory are not measured, and which forgets the images after each run.

use std::path::Path;
use std::process::{Command, Stdio};

use super::catalog::{Catalog, TAG};

/// containerd's namespace for the pulled images.
const NAMESPACE: &str = "oci-puller-bench";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Skopeo,
    Crane,
    Oras,
    Regctl,
    Ctr,
}

/// A puller of this machine.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    program: Program,
    version: Option<String>,
}

impl Program {
    pub(crate) const ALL: [Program; 5] =
        [Program::Skopeo, Program::Crane, Program::Oras, Program::Regctl, Program::Ctr];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Program::Skopeo => "skopeo",
            Program::Crane => "crane",
            Program::Oras => "oras",
            Program::Regctl => "regctl",
            Program::Ctr => "ctr",
        }
    }

    /// Returns the puller, if it can run; `ctr` needs a containerd that answers.
    pub(crate) fn find(self) -> Option<Peer> {
        let question = if self == Program::Skopeo { "--version" } else { "version" };
        let answer = Command::new(self.name()).arg(question).stdin(Stdio::null()).output().ok()?;
        let version = version_in(&String::from_utf8_lossy(&answer.stdout));
        answer.status.success().then_some(Peer { program: self, version })
    }
}

/// Returns the first word that looks like a version.
fn version_in(text: &str) -> Option<String> {
    let begins_with_digit = |word: &&str| word.starts_with(|first: char| first.is_ascii_digit());
    let mut words = text.split_whitespace().map(|word| word.trim_start_matches('v'));
    words.find(begins_with_digit).map(str::to_owned)
}

impl Peer {
    pub(crate) fn name(&self) -> String {
        let name = self.program.name();
        self.version.as_ref().map_or_else(|| name.to_owned(), |version| format!("{name} {version}"))
    }

    /// Returns whether all its work is done by the started processes.
    pub(crate) fn works_by_itself(&self) -> bool {
        self.program != Program::Ctr
    }

    /// Returns the processes that pull all images into `folder`, which exists and is empty.
    pub(crate) fn commands(&self, catalog: &Catalog, folder: &Path) -> Vec<Command> {
        let one = match self.program {
            Program::Crane => return vec![crane(catalog, folder)],
            Program::Skopeo => skopeo,
            Program::Oras => oras,
            Program::Regctl => regctl,
            Program::Ctr => ctr,
        };
        let pull = |(number, reference): (usize, &str)| {
            let layout = folder.join(number.to_string());
            one(&Pull { reference, host: &catalog.host, layout: &layout, folder })
        };
        catalog.references().enumerate().map(pull).collect()
    }

    /// Removes the images, so that the next run begins without any.
    pub(crate) fn clean_up(&self, catalog: &Catalog) -> Option<Command> {
        let mut command = Command::new(self.program.name());
        command.args(["--namespace", NAMESPACE, "images", "rm", "--sync"]).args(catalog.references());
        (self.program == Program::Ctr).then_some(command)
    }
}

/// One image, for a program that takes one in a call.
struct Pull<'a> {
    reference: &'a str,
    host: &'a str,
    /// Its own.
    layout: &'a Path,
    /// All images'.
    folder: &'a Path,
}

fn skopeo(pull: &Pull<'_>) -> Command {
    let mut command = Command::new("skopeo");
    command
        .args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", "--dest-shared-blob-dir"])
        .arg(pull.folder.join("blobs"))
        .arg(format!("docker://{}", pull.reference))
        .arg(format!("oci:{}:{TAG}", pull.layout.display()));
    command
}

fn oras(pull: &Pull<'_>) -> Command {
    let mut command = Command::new("oras");
    command
        .args(["copy", "--from-plain-http", pull.reference, "--to-oci-layout"])
        .arg(format!("{}:{TAG}", pull.layout.display()));
    command
}

fn regctl(pull: &Pull<'_>) -> Command {
    let mut command = Command::new("regctl");
    command
        .args(["image", "copy", "--host", &format!("reg={},tls=disabled", pull.host), pull.reference])
        .arg(format!("ocidir://{}:{TAG}", pull.layout.display()));
    command
}

fn ctr(pull: &Pull<'_>) -> Command {
    let mut command = Command::new("ctr");
    command.args(["--namespace", NAMESPACE, "content", "fetch", "--plain-http", pull.reference]);
    command
}

fn crane(catalog: &Catalog, folder: &Path) -> Command {
    let mut command = Command::new("crane");
    command.args(["pull", "--insecure", "--format=oci"]).args(catalog.references());
    command.arg(folder.join("layout"));
    command
}
