//! Tests of credential helpers: shell scripts that answer, fail or hang.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use tempfile::TempDir;

use super::docker::answer_of;
use super::process::Invocation;
use super::shared::{self, Question};
use super::*;
use crate::context::{CancelToken, PullContext};
use crate::credentials::credential::Credential;
use crate::error::{Error, ErrorKind};
use crate::sync::Outcome;

/// Helpers that are shell scripts, by their names.
fn helpers(scripts: &[(&str, &str)]) -> (TempDir, Helpers) {
    let directory = TempDir::new().unwrap();
    for (name, script) in scripts {
        install(&directory.path().join(format!("docker-credential-{name}")), script);
    }
    let mut helpers = Helpers::default();
    helpers.directory = Some(directory.path().to_owned());
    helpers.timeout = Duration::from_secs(20);
    (directory, helpers)
}

/// Written by another process: a file that was open for writing in this one, when another test
/// forked, cannot be run ("Text file busy").
pub(super) fn install(path: &Path, script: &str) {
    let mut shell = Command::new("sh")
        .args(["-c", r#"printf '#!/bin/sh\n' > "$0"; cat >> "$0"; chmod +x "$0""#])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success());
}

fn get(script: &str) -> Result<Option<Credential>, Error> {
    let (_directory, helpers) = helpers(&[("test", script)]);
    helpers.get(&PullContext::new(), "test", "r.io:5000")
}

#[test]
fn a_helper_is_told_the_server_and_its_answer_is_read() {
    let echo = r#"read server; printf '{"ServerURL":"x","Username":"%s","Secret":"%s"}' "$1" "$server""#;
    assert_eq!(get(echo).unwrap(), Some(Credential::basic("get", "r.io:5000")));
}

#[test]
fn an_answer_is_a_password_a_token_or_nothing() {
    for (script, expected) in [
        (r#"echo '{"Username":"<token>","Secret":"t"}'"#, Some(Credential::identity_token("t"))),
        (r#"echo '{"Username":"u","Secret":""}'"#, Some(Credential::basic("u", ""))),
        (r#"echo '{"Username":"","Secret":""}'"#, None),
        ("echo credentials not found in native keychain; exit 1", None),
    ] {
        assert_eq!(get(script).unwrap(), expected, "{script}");
    }
}

#[test]
fn what_is_not_an_answer_fails_and_is_not_repeated() {
    for (script, kind) in [
        ("echo marker; exit 3", ErrorKind::Protocol),
        ("echo marker; kill -9 $$", ErrorKind::Protocol),
        ("echo marker", ErrorKind::Protocol),
        (r#"echo '["marker"]'"#, ErrorKind::Protocol),
        (r#"echo '{"Username":["marker"],"Secret":"marker"}'"#, ErrorKind::Protocol),
        (r#"echo '{"Username":"u","Secret":"marker\n"}'"#, ErrorKind::Protocol),
        (r#"echo '{"Username":"marker\u0007","Secret":"s"}'"#, ErrorKind::Protocol),
        ("head -c 100000 /dev/zero | tr '\\0' m", ErrorKind::Protocol),
        ("yes marker", ErrorKind::Protocol),
    ] {
        let error = get(script).unwrap_err();
        assert_eq!(error.kind(), kind, "{script}: {error}");
        assert!(error.message().starts_with("credential helper test: "), "{error}");
        assert!(!format!("{error} {error:?}").contains("marker"), "{error:?}");
    }
}

#[test]
fn a_helper_that_has_answered_and_exited_is_done_though_its_child_holds_the_output() {
    let began = std::time::Instant::now();
    let answer = r#"sleep 15 & echo '{"Username":"u","Secret":"s"}'"#;
    assert_eq!(get(answer).unwrap(), Some(Credential::basic("u", "s")));
    assert_eq!(get("sleep 15 & echo credentials not found in native keychain; exit 1").unwrap(), None);
    assert!(began.elapsed() < Duration::from_secs(10), "it waited for the child");
}

#[test]
fn names_and_servers_that_are_not_safe_never_reach_a_program() {
    let (_directory, helpers) = helpers(&[("test", "echo '{\"Username\":\"u\",\"Secret\":\"s\"}'")]);
    for (name, server) in
        [("", "r.io"), ("../test", "r.io"), ("a b", "r.io"), ("te\0st", "r.io"), ("test", "r.io\nx")]
    {
        let error = helpers.get(&PullContext::new(), name, server).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{name:?} {server:?}");
    }
    let error = helpers.get(&PullContext::new(), "missing", "r.io").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.message().contains("docker-credential-missing cannot be run"), "{error}");
}

/// The id that a script wrote to `path`, as soon as it did.
fn written_pid(path: &Path) -> Option<Pid> {
    let text = fs::read_to_string(path).ok()?;
    Pid::from_raw(text.trim_end_matches('\n').parse().ok()?).filter(|_| text.ends_with('\n'))
}

/// Waits for the pipe that a process holds open for writing: its end is the process's end.
fn wait_until_closed(fifo: fs::File) {
    assert_eq!(io::copy(&mut { fifo }, &mut io::sink()).unwrap(), 0);
}

/// A helper that never answers, and what it started: both hold `fifo` open, and say so by opening it.
struct Hanging {
    directory: TempDir,
    helpers: Helpers,
}

impl Hanging {
    fn new(script: &str) -> Self {
        let (directory, helpers) = helpers(&[]);
        let (fifo, pid) = (directory.path().join("fifo"), directory.path().join("pid"));
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let script = format!("echo $$ > {}; exec 3> {}; {script}", pid.display(), fifo.display());
        install(&directory.path().join("docker-credential-hang"), &script);
        Hanging { directory, helpers }
    }

    /// Blocks until the helper runs.
    fn opened_fifo(&self) -> fs::File {
        fs::File::open(self.directory.path().join("fifo")).unwrap()
    }

    fn assert_reaped(&self) {
        let pid = written_pid(&self.directory.path().join("pid")).unwrap();
        // A helper's thread reaps it right after its end, and takes other work only then.
        shared::wait_for_all_threads();
        let error = rustix::process::test_kill_process(pid);
        assert_eq!(error, Err(rustix::io::Errno::SRCH), "a zombie or alive");
    }
}

#[test]
fn a_cancel_is_answered_at_once_and_ends_the_helper_and_what_it_started() {
    for script in ["sleep 1000", "sleep 1000 & wait", "exec >&-; sleep 1000"] {
        let hanging = Hanging::new(script);
        let token = CancelToken::new();
        let cx = PullContext::new().with_cancel(&token);
        thread::scope(|scope| {
            let asker = scope.spawn(|| {
                let answer = hanging.helpers.get(&cx, "hang", "r.io");
                (answer, Instant::now())
            });
            let fifo = hanging.opened_fifo();
            let cancelled = Instant::now();
            token.cancel();
            let (answer, answered) = asker.join().unwrap();
            assert_eq!(answer.unwrap_err().kind(), ErrorKind::Cancelled, "{script}");
            assert!(answered - cancelled < Duration::from_millis(100), "{script}");
            wait_until_closed(fifo);
        });
        hanging.assert_reaped();
    }
}

#[test]
fn the_time_limit_and_the_deadline_end_it_too() {
    let mut hanging = Hanging::new("sleep 1000");
    hanging.helpers.timeout = Duration::from_millis(300);
    let expired = PullContext::new().with_timeout(Duration::from_millis(50));
    for (cx, words) in [
        (PullContext::new(), "credential helper hang: no answer within 300ms"),
        (expired, "the pull's deadline"),
    ] {
        let error = hanging.helpers.get(&cx, "hang", "r.io").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.message().starts_with(words), "{error}");
    }
}

#[test]
fn callers_that_ask_the_same_at_the_same_time_share_one_run() {
    let hanging = Hanging::new("read answer < $0.answer; echo \"$answer\"; echo run >> $0.runs");
    let path = |ending: &str| hanging.directory.path().join(format!("docker-credential-hang{ending}"));
    assert!(Command::new("mkfifo").arg(path(".answer")).status().unwrap().success());
    let (args, input) = (vec!["get".to_owned()], "shared.io".to_owned());
    let invocation = Invocation { program: path(""), args, env: Vec::new(), input };
    let question = Question { name: "hang".to_owned(), invocation };
    let mut askers: Vec<_> = (0..9).map(|_| shared::ask(&question).unwrap()).collect();
    let _fifo = hanging.opened_fifo();
    // A caller that leaves does not end it for the others.
    drop(askers.remove(0));
    fs::write(path(".answer"), "{\"Username\":\"u\",\"Secret\":\"s\"}\n").unwrap();
    for asker in askers {
        let Ok(Outcome::Done(answer)) = asker.outcome().recv() else { panic!("the run was given up") };
        let answer = answer_of(&answer.unwrap(), "hang").unwrap();
        assert_eq!(answer, Some(Credential::basic("u", "s")));
    }
    assert_eq!(fs::read_to_string(path(".runs")).unwrap(), "run\n");
}

#[test]
fn more_askers_than_threads_are_all_answered() {
    let (_directory, helpers) = helpers(&[("test", "echo '{\"Username\":\"u\",\"Secret\":\"s\"}'")]);
    thread::scope(|scope| {
        for n in 0..16 {
            let helpers = &helpers;
            scope.spawn(move || {
                let found = helpers.get(&PullContext::new(), "test", &format!("r{n}.io")).unwrap();
                assert_eq!(found, Some(Credential::basic("u", "s")));
            });
        }
    });
}
