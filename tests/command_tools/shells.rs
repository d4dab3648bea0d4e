//! Completions in shells, and the manual page.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::Test;
use crate::bench::Bench;
use crate::real;

pub const TESTS: &[Test] = &[
    ("bash_completes_commands_and_options", &["bash"], bash),
    ("zsh_loads_the_completions", &["zsh"], zsh),
    ("man_shows_the_page_without_a_warning", &["man"], man),
];

/// Runs a shell without the user's settings on a script, and returns what it printed.
fn shell(name: &str, args: &[&str], script: &str) -> String {
    let bench = Bench::new();
    let file = bench.file("script", script);
    let mut command: Command = real::program(name);
    let output = command.args(args).arg(&file).env("HOME", bench.path("home")).stdin(Stdio::null()).output();
    let output = output.unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{name}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn bash() {
    let completions = Bench::new().run(["completions", "bash"]).exits(0).stdout;
    let (_, function) = completions.split_once("complete -F ").unwrap();
    let function = function.split(' ').next().unwrap();
    for (words, wanted) in [
        ("oci-puller ins", "inspect"),
        ("oci-puller pull --plat", "--platform"),
        ("oci-puller pull --progress j", "json"),
        ("oci-puller inspect --rem", "--remote"),
    ] {
        // Bash calls the function with the command, the word at the cursor, and the word before.
        let script = format!(
            "{completions}\nCOMP_WORDS=({words})\nCOMP_CWORD=$(({count} - 1))\n{function} oci-puller \
             \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
            count = words.split(' ').count()
        );
        let replies = shell("bash", &["--norc", "--noprofile"], &script);
        assert!(replies.lines().any(|reply| reply == wanted), "{words}: {replies}");
    }
}

fn zsh() {
    let bench = Bench::new();
    let completions = bench.run(["completions", "zsh"]).exits(0).stdout;
    bench.file("functions/_oci-puller", completions);
    let script = format!(
        "fpath=({} $fpath)\nautoload -Uz compinit\ncompinit -u -d {}\nautoload +X -Uz _oci-puller\n\
         print -r -- ${{_comps[oci-puller]}}\n",
        bench.path("functions").display(),
        bench.path("dump").display()
    );
    assert_eq!(shell("zsh", &["-f"], &script), "_oci-puller\n");
}

fn man() {
    let bench = Bench::new();
    let page = bench.file("oci-puller.1", bench.run(["man"]).exits(0).stdout);
    let mut command = real::program("man");
    command
        .args(["--warnings", "-l", &page])
        .env("MANWIDTH", "80")
        .env("LC_ALL", "C.UTF-8")
        .env("MANPAGER", "cat");
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    std::io::stderr().write_all(&output.stderr).unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    for words in ["OCI-PULLER PULL", "--all-platforms", "OCI-PULLER TAGS", "130"] {
        assert!(text.contains(words), "{words}: {text}");
    }
}
