//! Programs of other people, started for one test: they listen on loopback, work in a temporary folder,
//! and end with the test.

// Each test file uses some of it, and only tests do.
#![allow(dead_code, clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;
use std::{env, fs};

use libtest_mimic::{Failed, Trial};
use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::SOON;

/// While this is set, a program that is missing is a failure.
const REQUIRE: &str = "OCI_PULLER_REQUIRE_REAL";

/// A test that needs programs: ignored where one of them is missing.
pub fn trial(name: &str, needs: &'static [&'static str], run: fn()) -> Trial {
    let missing: Vec<&str> = needs.iter().copied().filter(|program| find(program).is_none()).collect();
    if missing.is_empty() {
        return test(name, run);
    }
    self::missing(name, format!("not installed: {}", missing.join(", ")), env::var_os(REQUIRE).is_some())
}

/// Returns a test that can run here.
pub fn test(name: &str, run: fn()) -> Trial {
    Trial::test(name, move || {
        run();
        Ok(())
    })
}

/// Returns a test that cannot run here: ignored, or failed if what it needs is required.
pub fn missing(name: &str, report: String, is_required: bool) -> Trial {
    Trial::test(name, move || Err(Failed::from(report))).with_ignored_flag(!is_required)
}

/// Where a program is; servers are often in a folder that is not every user's.
fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// A program, by its name, that no setting of this machine's user reaches.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(find(name).unwrap_or_else(|| panic!("{name} is not installed")));
    command.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default());
    command
}

/// Runs a program to its end, and returns its output.
pub fn run<'a>(name: &str, arguments: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    let home = tempfile::tempdir().unwrap();
    let mut command = program(name);
    command.args(arguments).env("HOME", home.path()).env("TMPDIR", home.path()).stdin(Stdio::null());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    output.stdout
}

/// Returns a port that was free a moment ago, for programs that cannot choose one.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A program that runs until this is dropped. What it wrote is shown if the test fails.
pub struct Server {
    name: String,
    child: Child,
    log: Arc<Log>,
    readers: Vec<JoinHandle<()>>,
}

/// What a program wrote.
#[derive(Default)]
struct Log {
    written: Mutex<Written>,
    grew: Condvar,
}

#[derive(Default)]
struct Written {
    lines: Vec<String>,
    /// How many of the program's two outputs are at their end.
    ended: usize,
}

impl Server {
    /// Starts `command`, and returns when it has written a line with `ready` in it.
    pub fn start(command: Command, ready: &str) -> Self {
        let server = Server::spawn(command);
        server.line_with(ready);
        server
    }

    /// Starts the command for a free port, and returns when it has written a line with `ready` in it. Another
    /// program may take the port first: then it starts the command for another one.
    pub fn start_on_free_port(ready: &str, command: impl Fn(u16) -> Command) -> (Self, u16) {
        for _ in 0..5 {
            let port = free_port();
            let server = Server::spawn(command(port));
            if server.line_unless_ended(ready).is_some() {
                return (server, port);
            }
        }
        panic!("the program ended five times before it wrote {ready:?}");
    }

    fn spawn(mut command: Command) -> Self {
        let name = Path::new(command.get_program()).file_name().unwrap().to_string_lossy().into_owned();
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Log::default());
        let readers = vec![
            Log::read(&log, child.stdout.take().unwrap()),
            Log::read(&log, child.stderr.take().unwrap()),
        ];
        Server { name, child, log, readers }
    }

    /// Waits for the first line with `text` in it.
    pub fn line_with(&self, text: &str) -> String {
        self.line_unless_ended(text).unwrap_or_else(|| panic!("{} ended before it wrote {text:?}", self.name))
    }

    /// Waits for the first line with `text` in it; `None` if the program ends before.
    fn line_unless_ended(&self, text: &str) -> Option<String> {
        let until = Instant::now() + SOON;
        let mut written = self.log.written.lock();
        loop {
            if let Some(line) = written.lines.iter().find(|line| line.contains(text)) {
                return Some(line.clone());
            }
            if written.ended == 2 {
                return None;
            }
            let timed_out = self.log.grew.wait_until(&mut written, until).timed_out();
            assert!(!timed_out, "{} did not write {text:?}", self.name);
        }
    }

    /// The lines with all of `texts` in them, as far as they are written by now.
    pub fn lines_with(&self, texts: &[&str]) -> Vec<String> {
        let written = self.log.written.lock();
        let has_all = |line: &&String| texts.iter().all(|text| line.contains(text));
        written.lines.iter().filter(has_all).cloned().collect()
    }

    /// Asks it to end, as a service manager does for a restart, and waits until it has ended.
    pub fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it as the kernel does when memory runs out: at once, and with nothing tidied up.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- {} wrote:\n{}\n---", self.name, self.log.written.lock().lines.join("\n"));
        }
    }
}

impl Log {
    fn read(log: &Arc<Log>, from: impl Read + Send + 'static) -> JoinHandle<()> {
        let log = Arc::clone(log);
        thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                log.written.lock().lines.push(line);
                log.grew.notify_all();
            }
            log.written.lock().ended += 1;
            log.grew.notify_all();
        })
    }
}

/// CNCF's `docker-registry`, and what was pushed to it.
pub struct DockerRegistry {
    server: Server,
    host: String,
    folder: TempDir,
}

impl DockerRegistry {
    pub fn start() -> Self {
        Self::start_with(json!({}))
    }

    /// A registry with more settings: sections of its `config.yml`, except for `http.addr`.
    pub fn start_with(settings: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = json!({
            "version": "0.1",
            "log": { "level": "info" },
            "storage": { "filesystem": { "rootdirectory": folder.path().join("root") } },
            "http": { "addr": "127.0.0.1:0", "secret": "of this test" },
        });
        merge(&mut config, settings);
        // All JSON is YAML.
        let file = folder.path().join("config.yml");
        fs::write(&file, config.to_string()).unwrap();
        let mut command = program("docker-registry");
        command.arg("serve").arg(file);
        let server = Server::start(command, "listening on ");
        let host = listening_on(&server.line_with("listening on "));
        DockerRegistry { server, host, folder }
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn server(&mut self) -> &mut Server {
        &mut self.server
    }

    /// A blob's or a manifest's bytes, from the registry's own disk.
    pub fn blob(&self, digest: &str) -> Vec<u8> {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let blobs = self.folder.path().join("root/docker/registry/v2/blobs/sha256");
        fs::read(blobs.join(&hex[..2]).join(hex).join("data")).unwrap()
    }

    /// The digest that a tag stands for, from the registry's own disk.
    pub fn tagged(&self, repository: &str, tag: &str) -> String {
        let link =
            format!("root/docker/registry/v2/repositories/{repository}/_manifests/tags/{tag}/current/link");
        fs::read_to_string(self.folder.path().join(link)).unwrap()
    }

    /// The requests that this crate sent, as lines of the access log.
    pub fn requests_of_ours(&self) -> Vec<String> {
        self.server.lines_with(&["\"GET /v2/", "oci-puller/"])
    }
}

/// The address in a line like `… msg="listening on 127.0.0.1:4711, tls" …`.
fn listening_on(line: &str) -> String {
    let (_, rest) = line.split_once("listening on ").unwrap();
    rest.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect()
}

/// Puts the fields of `more` into `into`, and those of objects in it likewise.
fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (name, value) in more {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}
