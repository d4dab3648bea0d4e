//! `export`: an image out of the store, as an archive.

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use oci_puller::{PullContext, Store, StoredImage};
use serde::Serialize;

use crate::args::{StoreArgs, usage};
use crate::command::existing_store;
use crate::exit::Exit;
use crate::names;
use crate::output;
use crate::signals::Signals;
use crate::stderr::say;
use crate::units::Bytes;

const AFTER_HELP: &str = "\
With --json:
  image      as it was given
  image_ref  its id: the digest of its config
  file       path of the archive
  bytes      size of the archive";

/// Write an image to an OCI archive
///
/// The archive is a tar file of an image layout with this image alone. The same image by the same name
/// gives the same bytes.
#[derive(Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct ExportArgs {
    /// A name, a digest, or the first digits (4 or more) of an image ref
    image: String,
    /// File to write. Default: standard output, unless it is a terminal
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
}

/// Writes the image that the arguments name to a file, or to standard output.
pub(crate) fn run(args: ExportArgs) -> Result<(), Exit> {
    match &args.output {
        None if args.store.json => {
            return Err(usage("export", "--json needs the archive in a file: add --output FILE"));
        }
        None if io::stdout().is_terminal() => {
            return Err(usage("export", "standard output is a terminal: add --output FILE"));
        }
        _ => {}
    }
    let Some(store) = existing_store(&args.store.dir()?)? else {
        return Err(Exit::REPORTED);
    };
    let (key, image) = names::find(&store, &args.image)?;
    let signals = Signals::watch()?;
    let cx = PullContext::new().with_cancel(signals.token());
    let written = match &args.output {
        Some(file) => to_file(&store, &cx, &key, file),
        None => to_stdout(&store, &cx, &key),
    };
    signals.check()?;
    print(&args, &image, written?)
}

/// Writes to a temporary file beside `path` and renames it, so that `path` never names a partial archive.
fn to_file(store: &Store, cx: &PullContext, key: &str, path: &Path) -> Result<u64, Exit> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".part");
    let partial = PathBuf::from(partial);
    let failed = |error: io::Error| Exit::Own(format!("{}: {error}", path.display()));
    let file = File::create(&partial).map_err(failed)?;
    let exported = archive(store, cx, key, &file)
        .and_then(|bytes| file.sync_all().map(|()| bytes).map_err(failed))
        .and_then(|bytes| fs::rename(&partial, path).map(|()| bytes).map_err(failed));
    if exported.is_err() {
        drop(fs::remove_file(&partial));
    }
    exported
}

fn to_stdout(store: &Store, cx: &PullContext, key: &str) -> Result<u64, Exit> {
    archive(store, cx, key, io::stdout().lock())
}

/// Writes the archive and returns its size.
fn archive(store: &Store, cx: &PullContext, key: &str, out: impl Write) -> Result<u64, Exit> {
    let mut counted = Counted { out: BufWriter::new(out), bytes: 0 };
    store.export(cx, key, &mut counted)?;
    counted.out.flush().map_err(Exit::Output)?;
    Ok(counted.bytes)
}

struct Counted<W: Write> {
    out: BufWriter<W>,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn print(args: &ExportArgs, image: &StoredImage, bytes: u64) -> Result<(), Exit> {
    let Some(file) = &args.output else {
        say(&format!("{}: {} written", args.image, Bytes(bytes)));
        return Ok(());
    };
    if args.store.json {
        let file = file.to_string_lossy();
        return output::json(&Line { image: &args.image, image_ref: image.id.as_str(), file: &file, bytes });
    }
    say(&format!("{}: {} written to {}", args.image, Bytes(bytes), file.display()));
    Ok(())
}

/// The JSON of one export; `--help` documents it.
#[derive(Serialize)]
struct Line<'a> {
    image: &'a str,
    image_ref: &'a str,
    file: &'a str,
    bytes: u64,
}
