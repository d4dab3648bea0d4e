//! Progress at a terminal.

use std::process::Command;

use oci_puller::testing::images::ImageBuilder;
use oci_puller::testing::{Action, Fault, FaultHandle, Registry, Stage, Target};

use crate::Test;
use crate::bench::Bench;
use crate::terminal::{Session, Terminal};

pub const TESTS: &[Test] = &[
    ("bars_fit_terminals_of_40_80_and_120_columns", &[], widths),
    ("a_host_that_is_waited_for_is_named_at_each_width", &[], waiting),
    ("colours_and_lines_are_those_that_the_environment_allows", &[], environments),
    ("a_terminal_that_cannot_move_its_cursor_gets_lines", &[], dumb),
];

/// Two images whose layers stop in the middle.
struct Stalled {
    bench: Bench,
    registry: Registry,
    names: [String; 2],
    held: FaultHandle,
}

impl Stalled {
    fn new() -> Self {
        let (bench, registry) = (Bench::new(), Registry::start().unwrap());
        let image = |name: &str| ImageBuilder::new(name).layer(1_000_000).build();
        let (first, second) = (image("team/first-application"), image("second"));
        let names = [registry.push(&first, "1.0"), registry.push(&second, "2")];
        let held = registry.fault(Fault::on(Target::Blob).with(Action::Hold(Stage::Body(250_000))));
        Stalled { bench, registry, names, held }
    }

    fn command(&self, variables: &[(&str, &str)]) -> Command {
        let args = ["pull", "--retries=1"].into_iter().chain(self.names.iter().map(String::as_str));
        let mut command = self.bench.command(args);
        command.env("TERM", "xterm-256color").env("LANG", "C.UTF-8").envs(variables.iter().copied());
        command
    }

    fn start(&self, columns: u16, variables: &[(&str, &str)]) -> Session {
        Terminal::open(columns, 24).unwrap().run(self.command(variables))
    }

    /// Lets the layers come, and checks the end of the pull.
    fn finish(&self, session: Session) -> String {
        self.held.remove();
        self.held.release();
        let (status, rows, written) = session.end();
        assert!(status.success(), "{rows:#?}");
        assert!(rows.iter().any(|row| row.starts_with("2 of 2 images in ")), "{rows:#?}");
        written
    }
}

fn has(rows: &[String], text: &str) -> bool {
    rows.iter().any(|row| row.contains(text))
}

fn widths() {
    for (columns, name, has_rate, has_host) in [
        (40, "…cation:1.0  ", false, false),
        (80, "…first-application:1.0  ", true, false),
        (120, "team/first-application:1.0  ", true, true),
    ] {
        let stalled = Stalled::new();
        let session = stalled.start(columns, &[]);
        let of_first =
            |rows: &[String]| rows.iter().find(|row| row.contains(name)).cloned().unwrap_or_default();
        let is_ready = |rows: &[String]| {
            has(rows, "second:2 ") && has(rows, "0 of 2 images   2") && of_first(rows).contains(" 24%  0.")
                || of_first(rows).contains(" 24%     0.3/1.0 MB")
                    && (!has_rate || of_first(rows).contains(" left"))
        };
        let rows = session.wait_for(is_ready);
        assert!(rows.iter().all(|row| row.chars().count() <= columns.into()), "{rows:#?}");
        let first = of_first(&rows);
        assert!(first.contains('━') && first.contains("0.3/1.0 MB"), "{columns}: {rows:#?}");
        assert_eq!(first.contains("B/s"), has_rate, "{columns}: {rows:#?}");
        assert_eq!(first.contains(&stalled.registry.host()), has_host, "{columns}: {rows:#?}");
        stalled.finish(session);
    }
}

fn waiting() {
    std::thread::scope(|scope| {
        for columns in [40, 80, 120] {
            scope.spawn(move || waiting_at(columns));
        }
    });
}

fn waiting_at(columns: u16) {
    let (bench, registry) = (Bench::new(), Registry::start().unwrap());
    let name = registry.push(&ImageBuilder::new("team/application").layer(10_000).build(), "1.0");
    let refused = Fault::on(Target::Manifest).times(1).with(Action::Status(429));
    registry.fault(refused.with(Action::header("Retry-After", "5")));
    let mut command = bench.command(["pull", &name]);
    command.env("TERM", "xterm").env("LANG", "C.UTF-8");
    let session = Terminal::open(columns, 24).unwrap().run(command);
    let rows = session.wait_for(|rows| has(rows, "429, next try in "));
    let row = rows.iter().find(|row| row.contains("429, next try in ")).unwrap();
    let (_, note) = row.split_once("429, next try in ").unwrap();
    assert!(note.contains(" s"), "the note is cut: {rows:#?}");
    let host = registry.host();
    assert!(columns == 40 || note.ends_with(&host), "the host is cut: {rows:#?}");
    assert!(session.end().0.success());
}

fn environments() {
    for (variables, is_ascii, has_colours) in [
        (&[][..], false, true),
        (&[("NO_COLOR", "1")], false, false),
        (&[("LC_ALL", "C")], true, true),
        (&[("LC_ALL", "C"), ("NO_COLOR", "1")], true, false),
        (&[("TERM", "linux")], true, true),
    ] {
        let stalled = Stalled::new();
        let session = stalled.start(80, variables);
        session.wait_for(|rows| rows.iter().filter(|row| row.contains('%')).count() >= 3);
        let written = stalled.finish(session);
        assert_eq!(written.is_ascii(), is_ascii, "{variables:?}: {written:?}");
        let is_colour = |code: &str| written.contains(&format!("\u{1b}[{code}m"));
        let coloured = ["36", "32", "31", "2", "90"].iter().any(|code| is_colour(code));
        assert_eq!(coloured, has_colours, "{variables:?}: {written:?}");
    }
}

fn dumb() {
    let stalled = Stalled::new();
    let session = stalled.start(80, &[("TERM", "dumb")]);
    session.wait_for(|rows| has(rows, " blobs, 1.0 MB"));
    let written = stalled.finish(session);
    assert!(!written.contains('\u{1b}'), "{written:?}");
    assert!(written.contains("second:2: done in "), "{written:?}");
}
