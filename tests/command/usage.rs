use crate::bench::Bench;

const COMMANDS: [&str; 8] = ["pull", "images", "rm", "prune", "verify", "export", "import", "demo"];

#[test]
fn wrong_arguments_are_told_and_exit_with_2() {
    let bench = Bench::new();
    for (args, told) in [
        (&[][..], "no command was given"),
        (&["fetch"], "no command \"fetch\""),
        (&["--store", "x"], "no option --store"),
        (&["pull"], "no image was named"),
        (&["pull", "--fast", "app"], "no option --fast"),
        (&["pull", "-x", "app"], "no option -x"),
        (&["pull", "app", "--parallel"], "missing argument"),
        (&["pull", "--parallel", "0", "app"], "--parallel wants a number from 1 to 4096, not \"0\""),
        (&["pull", "--parallel", "2", "--serial", "app"], "one of --parallel N and --serial"),
        (&["pull", "--serial=yes", "app"], "unexpected argument"),
        (&["pull", "--deadline", "soon", "app"], "a time like 90s, 5m or 1h30m, not \"soon\""),
        (&["pull", "--retries", "-1", "app"], "--retries"),
        (&["pull", "--platform", "linux/a/b/c", "app"], "--platform: "),
        (&["images", "app"], "\"app\" is one argument too many"),
        (&["rm"], "no image was named"),
        (&["prune", "--above", "101"], "from 0 to 100"),
        (&["prune", "--above", "50", "--below", "60"], "--below 60 is more than --above 50"),
        (&["verify", "--fix"], "no option --fix"),
        (&["export"], "no image was named"),
        (&["export", "a", "b"], "one argument too many"),
        (&["export", "--json", "a"], "--output FILE"),
        (&["import"], "no archive was named"),
        (&["demo", "--json"], "no option --json"),
        (&["demo", "--store=x"], "no option --store"),
        (&["help", "fetch"], "no command \"fetch\""),
    ] {
        let ran = bench.run(args).exits(2);
        assert!(ran.stderr.starts_with("oci-puller: ") && ran.stderr.contains(told), "{args:?}: {ran:#?}");
        assert!(ran.stderr.contains("--help"), "{args:?}: {ran:#?}");
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
        assert_eq!(bench.run([command, "-h"]).exits(0).stdout, help);
        assert_eq!(bench.run(["help", command]).exits(0).stdout, help);
        assert!(help.contains(&format!("Usage: oci-puller {command}")), "{help}");
        for line in main.lines().chain(help.lines()) {
            assert!(line.chars().count() <= 80, "{command}: {line}");
        }
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
