//! Wrong arguments.

use super::{Case, case};

pub(super) const CASES: &[Case] = &[
    case(
        "pull {empty}",
        2,
        r#"error: a value is required for '<IMAGE>...' but none was supplied

For more information, try '--help'."#,
    ),
    case(
        "pull --deadline 10 app",
        2,
        r#"error: invalid value '10' for '--deadline <TIME>': the unit is missing: write 10s for seconds, 10m for minutes

For more information, try '--help'."#,
    ),
    case(
        "pull --deadline 0s app",
        2,
        r#"error: invalid value '0s' for '--deadline <TIME>': it is no time; leave the option out for the default

For more information, try '--help'."#,
    ),
    case(
        "pull --response-timeout ten app",
        2,
        r#"error: invalid value 'ten' for '--response-timeout <TIME>': write a time such as 90s, 5m or 1h30m

For more information, try '--help'."#,
    ),
    case(
        "pull --max-image-size 2XB app",
        2,
        r#"error: invalid value '2XB' for '--max-image-size <SIZE>': write a number of bytes such as 1000000, 8MiB or 2GB

For more information, try '--help'."#,
    ),
    case(
        "pull --platform linux/* app",
        2,
        r#"error: invalid value 'linux/*' for '--platform <OS/ARCH[/VARIANT]>': architecture and variant are letters, digits, _ . and -; a platform looks like linux/arm64/v8

For more information, try '--help'."#,
    ),
    case(
        "pull --parallel 0 app",
        2,
        r#"error: invalid value '0' for '--parallel <N>': 0 is not in 1..=4096

For more information, try '--help'."#,
    ),
    case(
        "pull --pull allways app",
        2,
        r#"error: invalid value 'allways' for '--pull <WHEN>'
  [possible values: always, missing, never, if-possible]

  tip: a similar value exists: 'always'

For more information, try '--help'."#,
    ),
    case(
        "pull --progress bar app",
        2,
        r#"error: invalid value 'bar' for '--progress <HOW>'
  [possible values: auto, bars, lines, json, none]

  tip: a similar value exists: 'bars'

For more information, try '--help'."#,
    ),
    case(
        "pull --chunks 0,0 app",
        2,
        r#"error: invalid value '0,0' for '--chunks <FROM[,SIZE]>': a chunk of 0 bytes is not possible

For more information, try '--help'."#,
    ),
    case(
        "pull --username me app",
        2,
        r#"error: the following required arguments were not provided:
  --password-stdin

Usage: oci-puller pull --username <USER> --password-stdin --store <DIR> <IMAGE>...

For more information, try '--help'."#,
    ),
    case(
        "pull --key {dir}/key.pem app",
        2,
        r#"error: invalid value '{dir}/key.pem' for '--key <FILE>': No such file or directory (os error 2)

For more information, try '--help'."#,
    ),
    case(
        "pull --require-key key.pem app",
        2,
        r#"error: invalid value 'key.pem' for '--require-key <SCOPE=FILE>': write SCOPE=FILE, such as quay.io/team=key.pem

For more information, try '--help'."#,
    ),
    case(
        "pull --require-key =key.pem app",
        2,
        r#"error: invalid value '=key.pem' for '--require-key <SCOPE=FILE>': the scope is missing: write SCOPE=FILE, such as quay.io/team=key.pem

For more information, try '--help'."#,
    ),
    case(
        "pull --require-key docker.io=missing.pem app",
        2,
        r#"error: invalid value 'docker.io=missing.pem' for '--require-key <SCOPE=FILE>': missing.pem: No such file or directory (os error 2)

For more information, try '--help'."#,
    ),
    case(
        "pull --hosts-dir {dir}/missing app",
        2,
        r#"error: invalid value '{dir}/missing' for '--hosts-dir <DIR>': No such file or directory (os error 2)

For more information, try '--help'."#,
    ),
    case(
        "pull --ca {dir}/missing app",
        2,
        r#"error: invalid value '{dir}/missing' for '--ca <FILE>': No such file or directory (os error 2)

For more information, try '--help'."#,
    ),
    case(
        "pull --plain-http http://{host} {host}/app",
        2,
        r#"error: invalid value 'http://{host}' for '--plain-http <HOST[:PORT]>': write HOST or HOST:PORT, without a scheme and a path

For more information, try '--help'."#,
    ),
    case(
        "pull --pull missing --all-platforms {host}/app",
        2,
        r#"error: only a registry tells all platforms of an image: use --pull always

Usage: oci-puller pull [OPTIONS] <IMAGE>...

For more information, try '--help'."#,
    ),
    case(
        "pull --dry-run --quiet {host}/app",
        2,
        r#"error: the argument '--dry-run' cannot be used with '--quiet'

Usage: oci-puller pull --dry-run --store <DIR> <IMAGE>...

For more information, try '--help'."#,
    ),
    case(
        "pull --platform linux/arm64 --all-platforms {host}/app",
        2,
        r#"error: the argument '--platform <OS/ARCH[/VARIANT]>' cannot be used with '--all-platforms'

Usage: oci-puller pull --platform <OS/ARCH[/VARIANT]> --store <DIR> <IMAGE>...

For more information, try '--help'."#,
    ),
    case(
        "inspect --plain-http {host} app",
        2,
        r#"error: the following required arguments were not provided:
  --remote

Usage: oci-puller inspect --remote --plain-http <HOST[:PORT]> --store <DIR> <IMAGE>

For more information, try '--help'."#,
    ),
    case(
        "tags --limit 0 {host}/app",
        2,
        r#"error: invalid value '0' for '--limit <N>': 0 is not in 1..=4294967295

For more information, try '--help'."#,
    ),
    case(
        "prune --above 101",
        2,
        r#"error: invalid value '101' for '--above <PERCENT>': 101 is not in 0..=100

For more information, try '--help'."#,
    ),
    case(
        "import --name A {dir}/x.tar",
        2,
        r#"error: invalid value 'A' for '--name <NAME>': the repository must be in lower case

For more information, try '--help'."#,
    ),
    case(
        "plul app",
        2,
        r#"error: unrecognized subcommand 'plul'

  tip: a similar subcommand exists: 'pull'

Usage: oci-puller <COMMAND>

For more information, try '--help'."#,
    ),
];
