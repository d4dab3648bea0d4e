//! `export`: writes an image of the store to an archive.

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;

use clap::{Args, ValueEnum};
use oci_puller::image::Platform;
use oci_puller::store::{ArchiveFormat, Cancellable, StoredImage};
use oci_puller::{PullContext, Store};
use serde::Serialize;

use crate::args::{StoreArgs, usage};
use crate::exit::Exit;
use crate::names;
use crate::output;
use crate::signals::Signals;
use crate::stderr::say;
use crate::stores;
use crate::units::Bytes;

/// How many links are followed, as in Linux.
const MAX_LINKS: usize = 40;

const AFTER_HELP: &str = "\
With --json:
  image      as it was given
  image_ref  its id: the digest of its config
  file       path of the archive
  bytes      size of the archive";

/// Write an image to an archive
///
/// The archive is a tar file of an OCI image layout with this image alone. The same image by the same name gives the
/// same bytes.
#[derive(Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct ExportArgs {
    /// A name, a digest, or the first digits (4 or more) of an image ref
    image: String,
    /// File to write. Default: standard output, unless it is a terminal
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Export the image for this platform. Default: this machine's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = crate::args::platform)]
    platform: Option<Platform>,
    /// Format of the archive
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Oci)]
    format: Format,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// An OCI archive, for podman, skopeo, containerd, and Docker from 25 on
    Oci,
    /// The same, also readable by docker load of older Docker
    Docker,
}

impl From<Format> for ArchiveFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Oci => ArchiveFormat::Oci,
            Format::Docker => ArchiveFormat::Docker,
        }
    }
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
    let store = stores::open(&args.store.dir()?, args.platform.as_ref())?;
    let (key, image) = names::find(&store, &args.image)?;
    let signals = Signals::watch()?;
    let cx = PullContext::new().with_cancel(signals.token());
    let export = Export { store: &store, cx: &cx, key: &key, format: args.format.into() };
    let written = match &args.output {
        Some(file) => export.to_file(file),
        None => export.to_stdout(),
    };
    signals.check()?;
    print(&args, &image, written?)
}

/// One export.
struct Export<'a> {
    store: &'a Store,
    cx: &'a PullContext,
    key: &'a str,
    format: ArchiveFormat,
}

impl Export<'_> {
    /// Writes to `path`, through links. What is not a regular file is written into; a regular file is replaced
    /// as a whole when the archive is complete. Returns the size of the archive.
    fn to_file(&self, path: &Path) -> Result<u64, Exit> {
        let failed = |error: io::Error| Exit::Own(format!("{}: {error}", path.display()));
        let target = match fs::metadata(path) {
            Ok(found) if !found.is_file() => {
                let file = open_to_write(self.cx, path)?.map_err(failed)?;
                return self.write(Cancellable::new(self.cx, file).map_err(failed)?);
            }
            Ok(_) => fs::canonicalize(path).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => end_of_links(path),
            Err(error) => return Err(failed(error)),
        };
        let (temporary, file) = Temporary::beside(&target).map_err(failed)?;
        if let Ok(replaced) = fs::metadata(&target) {
            file.set_permissions(replaced.permissions()).map_err(failed)?;
        }
        let bytes = self.write(&file)?;
        file.sync_all().and_then(|()| temporary.rename(&target)).map_err(failed)?;
        Ok(bytes)
    }

    fn to_stdout(&self) -> Result<u64, Exit> {
        let stdout = io::stdout().as_fd().try_clone_to_owned().map(File::from);
        self.write(stdout.and_then(|file| Cancellable::new(self.cx, file)).map_err(Exit::Output)?)
    }

    fn write(&self, out: impl Write) -> Result<u64, Exit> {
        let mut counted = Counted { out: BufWriter::new(out), bytes: 0 };
        self.store.export_as(self.cx, self.key, self.format, &mut counted)?;
        counted.out.flush().map_err(Exit::Output)?;
        Ok(counted.bytes)
    }
}

/// Opens what is not a regular file. That may wait for a reader, so a thread does it, which ends with the
/// process if no reader comes.
fn open_to_write(cx: &PullContext, path: &Path) -> Result<io::Result<File>, Exit> {
    let (sender, opened) = crossbeam_channel::bounded(1);
    let path = path.to_owned();
    let open = move || drop(sender.send(File::options().write(true).open(path)));
    if let Err(error) = thread::Builder::new().name("open".into()).spawn(open) {
        return Ok(Err(error));
    }
    Ok(cx.wait_for(&opened)?.unwrap_or_else(|| Err(io::Error::other("it could not be opened"))))
}

/// Returns where a link leads that names no file yet.
fn end_of_links(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let Ok(target) = fs::read_link(&path) else { break };
        path = path.parent().map_or_else(|| target.clone(), |parent| parent.join(&target));
    }
    path
}

/// A file with a name that no other process has, removed if it is not renamed.
struct Temporary(Option<PathBuf>);

impl Temporary {
    fn beside(target: &Path) -> io::Result<(Self, File)> {
        let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
        let short: String = name.chars().take(32).collect();
        loop {
            let path = target.with_file_name(format!(".{short}.{:016x}.part", fastrand::u64(..)));
            match File::options().write(true).create_new(true).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                opened => return opened.map(|file| (Temporary(Some(path)), file)),
            }
        }
    }

    fn rename(mut self, target: &Path) -> io::Result<()> {
        let Some(path) = &self.0 else { return Ok(()) };
        fs::rename(path, target)?;
        self.0 = None;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            drop(fs::remove_file(path));
        }
    }
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
