//! `export`: an image out of the store, as an archive.

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use oci_puller::{PullContext, Store, StoredImage};
use serde::Serialize;

use crate::args::{Args, Token};
use crate::command::existing_store;
use crate::names;
use crate::output;
use crate::screen::say;
use crate::signals::Signals;
use crate::stop::Stop;
use crate::units::Bytes;

/// Writes the image that the arguments name to a file, or to standard output.
pub(crate) fn run(args: &mut Args) -> Result<(), Stop> {
    let options = Options::read(args)?;
    let Some(store) = existing_store(&args.store_dir()?)? else {
        return Err(Stop::Told);
    };
    let (key, image) = names::find(&store, &options.image)?;
    let signals = Signals::watch()?;
    let cx = PullContext::new().with_cancel(signals.token());
    let written = match &options.file {
        Some(file) => to_file(&store, &cx, &key, file),
        None => to_stdout(&store, &cx, &key),
    };
    signals.check()?;
    tell(args.json(), &options, &image, written?)
}

struct Options {
    image: String,
    /// None is standard output.
    file: Option<PathBuf>,
}

impl Options {
    fn read(args: &mut Args) -> Result<Self, Stop> {
        let (mut image, mut file) = (None, None);
        while let Some(token) = args.next()? {
            match token {
                Token::Option(option) => match option.as_str() {
                    "--output" | "-o" => file = Some(args.path()?),
                    _ => return Err(args.unknown_option(&option)),
                },
                Token::Word(word) if image.is_none() => image = Some(args.readable(word)?),
                Token::Word(word) => return Err(args.unknown_word(&word)),
            }
        }
        let image = image.ok_or_else(|| args.usage("no image was named"))?;
        match &file {
            None if args.json() => Err(args.usage("--json wants the archive elsewhere: add --output FILE")),
            None if io::stdout().is_terminal() => {
                Err(args.usage("a terminal is no place for an archive: add --output FILE"))
            }
            _ => Ok(Options { image, file }),
        }
    }
}

/// Writes beside the file and renames then: what has the file's name is whole.
fn to_file(store: &Store, cx: &PullContext, key: &str, path: &Path) -> Result<u64, Stop> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".part");
    let partial = PathBuf::from(partial);
    let failed = |error: io::Error| Stop::Own(format!("{}: {error}", path.display()));
    let file = File::create(&partial).map_err(failed)?;
    let exported = archive(store, cx, key, &file)
        .and_then(|bytes| file.sync_all().map(|()| bytes).map_err(failed))
        .and_then(|bytes| fs::rename(&partial, path).map(|()| bytes).map_err(failed));
    if exported.is_err() {
        drop(fs::remove_file(&partial));
    }
    exported
}

fn to_stdout(store: &Store, cx: &PullContext, key: &str) -> Result<u64, Stop> {
    archive(store, cx, key, io::stdout().lock())
}

/// Writes the archive, and tells its size.
fn archive(store: &Store, cx: &PullContext, key: &str, out: impl Write) -> Result<u64, Stop> {
    let mut counted = Counted { out: BufWriter::new(out), bytes: 0 };
    store.export(cx, key, &mut counted)?;
    counted.out.flush().map_err(Stop::Output)?;
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

fn tell(is_json: bool, options: &Options, image: &StoredImage, bytes: u64) -> Result<(), Stop> {
    let Some(file) = &options.file else {
        say(&format!("{}: {} written", options.image, Bytes(bytes)));
        return Ok(());
    };
    if is_json {
        let file = file.to_string_lossy();
        return output::json(&Line {
            image: &options.image,
            image_ref: image.id.as_str(),
            file: &file,
            bytes,
        });
    }
    say(&format!("{}: {} written to {}", options.image, Bytes(bytes), file.display()));
    Ok(())
}

/// What was written, for programs; `--help` documents it.
#[derive(Serialize)]
struct Line<'a> {
    image: &'a str,
    image_ref: &'a str,
    file: &'a str,
    bytes: u64,
}
