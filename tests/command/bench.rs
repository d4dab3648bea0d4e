//! A store, a home, and the command that uses them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use oci_puller::testing::Registry;
use oci_puller::testing::images::{Image, ImageBuilder};
use serde_json::Value;
use tempfile::TempDir;

/// A folder in which the command has its store, its home and its temporary files.
pub(crate) struct Bench(TempDir);

/// How a run ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let bench = Bench(tempfile::tempdir().unwrap());
        for folder in ["home", "tmp"] {
            std::fs::create_dir(bench.path(folder)).unwrap();
        }
        bench
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file, and tells its path.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The command, with nothing of this machine's environment.
    pub(crate) fn command<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oci-puller"));
        command.args(args).env_clear().stdin(Stdio::null());
        command.env("HOME", self.path("home")).env("TMPDIR", self.path("tmp"));
        command.env("OCI_PULLER_STORE", self.path("store"));
        command
    }

    /// Runs the command with text on its standard input.
    pub(crate) fn run_with_input<I: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = I>,
        input: &str,
    ) -> Ran {
        let file = std::fs::File::open(self.file("input", input)).unwrap();
        Ran::of(self.command(args).stdin(file))
    }

    pub(crate) fn run<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Ran {
        Ran::of(&mut self.command(args))
    }
}

impl Ran {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Ran {
            status: output.status,
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Makes sure of the exit code; what was said is told otherwise.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self:#?}");
        self
    }

    /// Its standard output, a JSON object a line.
    #[track_caller]
    pub(crate) fn json(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// The lines of standard error that tell errors.
    pub(crate) fn errors(&self) -> Vec<&str> {
        self.stderr.lines().filter(|line| line.starts_with("error: ")).collect()
    }
}

/// An image of two layers.
pub(crate) fn image(repository: &str) -> Image {
    ImageBuilder::new(repository).layer(20_000).layer_shared(1, 30_000).build()
}

/// A registry with one such image, and its reference.
pub(crate) fn registry_with(repository: &str) -> (Registry, String) {
    let registry = Registry::start().unwrap();
    let name = registry.push(&image(repository), "1.0");
    (registry, name)
}

/// The first digits of a digest, as tables have them.
pub(crate) fn short(digest: &str) -> &str {
    &digest["sha256:".len()..][..12]
}
