use crate::bench::Bench;

const COMMANDS: [&str; 13] = [
    "pull", "images", "rm", "inspect", "digest", "tags", "pin", "unpin", "prune", "verify", "export",
    "import", "demo",
];

#[test]
fn wrong_arguments_exit_with_2_and_say_what_is_right() {
    let bench = Bench::new();
    for (args, told) in [
        (&[][..], "Usage: oci-puller <COMMAND>"),
        (&["plul"], "a similar subcommand exists: 'pull'"),
        (&["--store", "x"], "unexpected argument '--store'"),
        (&["pull"], "<IMAGE>"),
        (&["pull", "--paralel", "3", "app"], "a similar argument exists: '--parallel'"),
        (&["pull", "-x", "app"], "unexpected argument '-x'"),
        (&["pull", "app", "--parallel"], "a value is required for '--parallel <N>'"),
        (&["pull", "--parallel", "0", "app"], "0 is not in 1..=4096"),
        (&["pull", "--parallel", "2", "--serial", "app"], "'--parallel <N>' cannot be used with '--serial'"),
        (&["pull", "--serial=yes", "app"], "unexpected value 'yes'"),
        (&["pull", "--deadline", "soon", "app"], "write a time such as 90s, 5m or 1h30m"),
        (&["pull", "--deadline", "10", "app"], "the unit is missing: write 10s"),
        (&["pull", "--retries=-1", "app"], "'--retries <N>'"),
        (&["pull", "--platform", "linux/a/b/c", "app"], "'--platform <OS/ARCH[/VARIANT]>'"),
        (&["images", "--platform=linux/arm", "--platform=linux/arm64"], "cannot be used multiple times"),
        (&["pull", "--hosts-dir", "/does/not/exist", "app"], "'/does/not/exist' for '--hosts-dir <DIR>'"),
        (&["pull", "--auth-file", "/does/not/exist", "app"], "'/does/not/exist' for '--auth-file <FILE>'"),
        (&["pull", "--registry-config", "/", "app"], "it is a folder, not a file"),
        (&["pull", "--ca", "/does/not/exist", "app"], "'/does/not/exist' for '--ca <FILE>'"),
        (&["images", "app"], "unexpected argument 'app'"),
        (&["rm"], "<IMAGE>"),
        (&["prune", "--above", "101"], "101 is not in 0..=100"),
        (&["prune", "--above", "50", "--below", "60"], "--below 60 is more than --above 50"),
        (&["verify", "--fix"], "unexpected argument '--fix'"),
        (&["export"], "<IMAGE>"),
        (&["export", "a", "b"], "unexpected argument 'b'"),
        (&["export", "--json", "a"], "--output FILE"),
        (&["import"], "<SOURCE>"),
        (&["demo", "--json"], "unexpected argument '--json'"),
        (&["demo", "--store=x"], "unexpected argument '--store'"),
        (&["help", "fetch"], "unrecognized subcommand 'fetch'"),
    ] {
        let ran = bench.run(args).exits(2);
        assert!(ran.stderr.contains(told), "{args:?}: {ran:#?}");
        assert!(ran.stderr.contains("--help") || ran.stderr.contains("Usage:"), "{args:?}: {ran:#?}");
        assert_eq!(ran.stdout, "", "{args:?}");
    }
    assert!(!bench.path("store").exists());
}

#[test]
fn help_goes_to_stdout_and_fits_a_terminal() {
    let bench = Bench::new();
    let main = bench.run(["--help"]).exits(0).stdout;
    for command in COMMANDS {
        assert!(main.contains(&format!("\n  {command} ")), "{command}");
        let help = bench.run([command, "--help"]).exits(0).stdout;
        assert_eq!(bench.run(["help", command]).exits(0).stdout, help);
        assert!(help.contains(&format!("Usage: oci-puller {command}")), "{help}");
        let brief = bench.run([command, "-h"]).exits(0).stdout;
        assert!(brief.lines().count() <= help.lines().count(), "{command}");
        for line in main.lines().chain(help.lines()).chain(brief.lines()) {
            assert!(line.chars().count() <= 80, "{command}: {line}");
        }
    }
}

#[test]
fn shells_complete_the_commands_and_their_options() {
    let bench = Bench::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = bench.run(["completions", shell]).exits(0).stdout;
        for word in COMMANDS.iter().chain(&["platform", "hosts-dir"]) {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn the_manual_page_has_a_section_for_each_command() {
    let page = Bench::new().run(["man"]).exits(0).stdout;
    assert!(page.starts_with(".ie") || page.contains(".TH oci"), "{page}");
    for command in COMMANDS {
        assert!(page.contains(&format!("PULLER {}\"", command.to_uppercase())), "{command}: {page}");
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    let ran = Bench::new().run(["--version"]).exits(0);
    assert_eq!(ran.stdout, concat!("oci-puller ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn words_after_two_dashes_are_no_options() {
    let ran = Bench::new().run(["rm", "--", "--help"]).exits(1);
    assert!(ran.stderr.contains("no store"), "{ran:#?}");
}
