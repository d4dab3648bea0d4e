//! What `--help` shows.

use crate::args::{Args, Token};
use crate::command;
use crate::stop::Stop;

/// The answer to `help [COMMAND]`.
pub(crate) fn about(args: &mut Args) -> Stop {
    let word = match args.next() {
        Ok(None) => return Stop::Answer(MAIN),
        Ok(Some(Token::Word(word))) => word,
        Ok(Some(Token::Option(option))) => return args.unknown_option(&option),
        Err(stop) => return stop,
    };
    match word.to_str().and_then(command::named) {
        Some(command) => Stop::Answer(command.help),
        None => args.usage(format!("there is no command {word:?}")),
    }
}

pub(crate) const MAIN: &str = "\
Pulls container images from registries into an OCI image layout on disk.

Usage: oci-puller COMMAND [OPTIONS] [IMAGE...]

Commands:
  pull     Pull images
  images   List the images in the store
  rm       Remove images from the store
  prune    Remove images that were not used for long, or that must make room
  verify   Hash everything in the store, and move aside what is damaged
  export   Write an image to an archive
  import   Take in the images of archives and layouts
  demo     Show all of it with a registry of its own: no network, nothing to
           install
  help     Show the help of a command, as `oci-puller COMMAND --help` does

Every command but demo takes:
      --store DIR  Where the images are. Default: $OCI_PULLER_STORE, or else
                   oci-puller in $XDG_DATA_HOME or ~/.local/share
      --json       Results as JSON, one object a line
  -h, --help       Show the command's help, with the fields of its JSON
  -V, --version    Show the version (before a command only)

Results go to standard output, messages to standard error. The exit code is 0
if all was done, 1 if something failed, 2 if the arguments were wrong. Ctrl-C
ends a command in good order, twice at once; the store is valid in any case.
$OCI_PULLER_LOG (off, error, warn, info, debug) says what is logged to standard
error. Default: warn
";

pub(crate) const PULL: &str = "\
Pulls images into the store. What is there already is not fetched again, what
broke off goes on where it broke, and nothing is stored that was not verified.

Usage: oci-puller pull [OPTIONS] IMAGE...

  IMAGE  [HOST[:PORT]/]NAME[:TAG][@DIGEST], like alpine or ghcr.io/team/app:1.2

Options:
      --store DIR      Where the images go. Default: see `oci-puller --help`
      --parallel N     Pull N images at a time. Default: 4
      --serial         Pull one image at a time, in the order given
      --platform OS/ARCH[/VARIANT]
                       Pull for this platform. Default: this machine's
      --deadline TIME  Give up what is not done after TIME, like 90s or 1h30m.
                       Default: none
      --retries N      Try again N times after a failure that may pass; a try
                       that brought 1 MiB does not count. Default: 4
      --json           Results as JSON, one object a line

Which hosts:
      --hosts-dir DIR  Mirrors and settings by host, hosts.toml files as
                       containerd has them in certs.d
      --plain-http HOST[:PORT]
                       Ask this host without TLS; may be given again. Loopback
                       hosts are asked so without being named
      --ca FILE        Trust what these authorities signed (PEM), instead of
                       the public ones; may be given again

Which credentials:
      --auth-file FILE, --registry-config FILE
                       Look into this auth.json of podman's, or config.json of
                       Docker's, and run the credential helpers it names.
                       Default: both, where podman and Docker have them

  -h, --help           Show this help

On a terminal there is a bar for each image; elsewhere there are lines. The
table that follows tells how long each image waited for its turn, how long its
pull took then, and how many of its bytes were fetched, and reused from the
store. Exits with 0 only if every image came.

With --json there is an object for each image, as soon as it is done:
  image              as it was given
  ok                 whether it came
  image_ref          its id: the digest of its config
  manifest_digest    the digest of what the name stood for: manifest or index
  repo_digest        NAME@DIGEST of the same
  size               bytes of manifest, config and layers
  bytes_fetched      bytes that came over the network
  bytes_reused       bytes that were in the store
  wait_seconds       until its turn came
  pull_seconds       from then on
  error              if it did not come, instead of the six after ok:
    kind             like NotFound, Unauthorized, ConnectionFailed, Timeout
    message          all of it in one line
    host, phase      what failed, or null
    retryable        whether the same may succeed later
    retry_after_seconds
                     how long the registry asked to be left alone, if it did
    attempts         each try: its host, kind and message
";

pub(crate) const IMAGES: &str = "\
Lists the images in the store, the last used first.

Usage: oci-puller images [OPTIONS]

Options:
      --store DIR  Where the images are. Default: see `oci-puller --help`
      --json       Results as JSON, one object a line
  -h, --help       Show this help

With --json there is an object for each image:
  image_ref        its id: the digest of its config
  names            list of the names it goes by
  repo_digests     list of NAME@DIGEST it was pulled as
  manifest_digest  the digest of its manifest
  size             bytes of manifest, config and layers
  pinned           whether it is never pruned
  last_used        when it was last pulled or used, seconds since 1970
";

pub(crate) const RM: &str = "\
Removes images from the store, and those of their blobs that no other image
uses. By a name, only this name goes while the image has others.

Usage: oci-puller rm [OPTIONS] IMAGE...

  IMAGE  A name, a digest, or the first digits (4 or more) of an image ref

Options:
      --store DIR  Where the images are. Default: see `oci-puller --help`
      --json       Results as JSON, one object a line
  -h, --help       Show this help

Prints the names that are gone. With --json there is an object for each IMAGE:
  image  as it was given
  names  list of the names that stand for nothing now
  blobs  how many blobs were removed
  bytes  how many bytes they took
";

pub(crate) const PRUNE: &str = "\
Removes images that were not used for long, and if the disk is too full, the
least recently used ones until it is not; with them all blobs that no image
uses. Pinned images stay.

Usage: oci-puller prune [OPTIONS]

Options:
      --unused-for TIME  Remove images not used for TIME, like 12h or 30d.
                         Default: none
      --above PERCENT    Make room if the disk is this full. Default: 85
      --below PERCENT    Make room until the disk is less full than this.
                         Default: 80
      --min-age TIME     Keep what was used less than TIME ago. Default: 2m
      --store DIR        Where the images are. Default: see `oci-puller --help`
      --json             Results as JSON, one object
  -h, --help             Show this help

Prints the names that are gone. With --json:
  names  list of the names that stand for nothing now
  blobs  how many blobs were removed
  bytes  how many bytes they took
";

pub(crate) const VERIFY: &str = "\
Hashes every blob in the store, and moves aside what is not what its digest
says; a pull fetches it again. Exits with 0 only if nothing was damaged and
nothing is missing.

Usage: oci-puller verify [OPTIONS]

Options:
      --store DIR  Where the images are. Default: see `oci-puller --help`
      --json       Results as JSON, one object
  -h, --help       Show this help

With --json:
  sound       how many blobs are what their digests say
  bytes       how many bytes they have
  damaged     list of digests of blobs that were not
  incomplete  list of images that lack blobs:
    manifest_digest  which image
    lacking          list of digests of the blobs it lacks
";

pub(crate) const EXPORT: &str = "\
Writes an image as an OCI archive: a tar file of an image layout with this image
alone. The same image by the same name makes the same bytes.

Usage: oci-puller export [OPTIONS] IMAGE

  IMAGE  A name, a digest, or the first digits (4 or more) of an image ref

Options:
  -o, --output FILE  Where to. Default: standard output, unless it is a terminal
      --store DIR    Where the images are. Default: see `oci-puller --help`
      --json         Results as JSON, one object; with --output only
  -h, --help         Show this help

With --json:
  image      as it was given
  image_ref  its id: the digest of its config
  file       where it was written to
  bytes      how many bytes the archive has
";

pub(crate) const IMPORT: &str = "\
Takes images into the store, as strictly verified as in a pull: out of OCI
archives, archives of `docker save`, and folders that are OCI image layouts.

Usage: oci-puller import [OPTIONS] SOURCE...

  SOURCE  An archive, not compressed; a folder; or - for an archive on standard
          input

Options:
      --store DIR  Where the images go. Default: see `oci-puller --help`
      --json       Results as JSON, one object a line
  -h, --help       Show this help

Prints the names of the images that came. With --json there is an object for
each SOURCE:
  source  as it was given
  names   list of the names; for an image without one, its manifest's digest
";

pub(crate) const DEMO: &str = "\
Shows the whole way of a pull on this machine alone: starts a registry on
127.0.0.1, fills it with generated images that share layers, has it misbehave a
little, and pulls them all, first in parallel, then one at a time, into two
stores in a temporary folder, which is removed at the end.

Usage: oci-puller demo

Options:
  -h, --help  Show this help
";
