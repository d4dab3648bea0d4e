//! `unpack`: an image of the store as a root file system.

use std::path::{Path, PathBuf};

use clap::Args;
use oci_puller::store::StoredImage;
use oci_puller::unpack::{Devices, IdRange, LayerStack, LayerStore, Owners, Unpack, Unpacked};
use oci_puller::{PullContext, Store};
use serde::Serialize;

use crate::args::StoreArgs;
use crate::exit::Exit;
use crate::names;
use crate::output;
use crate::progress::{ProgressView, Shown};
use crate::signals::Signals;
use crate::stderr::say;
use crate::stores;
use crate::units::Bytes;

const AFTER_HELP: &str = "\
DIR must be empty or absent, or left unfinished by an interrupted run.

With --json:
  image             as it was given
  image_ref         its id: the digest of its config
  entries           entries of all layers
  files, bytes      regular files among them, and their bytes
  left_out_devices  devices that were not created
  left_out_xattrs   extended attributes that could not be set
With --json and --layers, after image and image_ref:
  layers            the folders of the layers, top first
  mount_options     further options that a mount of overlayfs needs

Example, with runc:
  oci-puller pull alpine
  oci-puller unpack alpine bundle/rootfs
  oci-puller run-config alpine --root bundle/rootfs > bundle/config.json
  runc run --bundle bundle demo";

/// Unpack an image to a root file system
#[derive(Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct UnpackArgs {
    /// A name, a digest, or the first digits (4 or more) of an image ref
    image: String,
    /// Folder to unpack to
    #[arg(required_unless_present_any = ["tar", "layers"], conflicts_with_all = ["tar", "layers"])]
    dir: Option<PathBuf>,
    /// Write one tar of the whole tree instead; - is standard output
    #[arg(long, value_name = "FILE", conflicts_with = "layers")]
    tar: Option<PathBuf>,
    /// Unpack each layer to a folder of its own below DIR, for overlayfs, and print the folders, top first
    #[arg(long, value_name = "DIR")]
    layers: Option<PathBuf>,
    #[command(flatten)]
    choices: Choices,
    #[command(flatten)]
    store: StoreArgs,
}

/// Options of each command that unpacks.
#[derive(Args)]
pub(crate) struct Choices {
    /// Owners of the files: as-image, current, map=IMAGE:DISK:COUNT[,…] or recorded=FILE. Default: as-image for root,
    /// else current
    #[arg(long, value_name = "OWNERS", value_parser = owners, help_heading = "Unpacking")]
    owners: Option<Owners>,
    /// Leave devices out
    #[arg(long, help_heading = "Unpacking")]
    no_devices: bool,
    /// Refuse an image of more than SIZE, such as 500M or 10G. Default: none
    #[arg(long, value_name = "SIZE", value_parser = crate::args::bytes, help_heading = "Unpacking")]
    max_unpacked: Option<u64>,
}

/// Unpacks the image that the arguments name.
pub(crate) fn run(args: UnpackArgs) -> Result<(), Exit> {
    if args.store.json && args.tar.as_deref() == Some(Path::new("-")) {
        return Err(crate::args::usage("unpack", "--json needs the tar in a file"));
    }
    let target = match (&args.tar, &args.layers, &args.dir) {
        (Some(file), ..) => Target::Tar(file),
        (_, Some(dir), _) => Target::Layers(dir),
        (.., Some(dir)) => Target::Dir(dir),
        _ => return Err(crate::args::usage("unpack", "add a folder, --tar FILE or --layers DIR")),
    };
    let store = stores::open(&args.store.dir()?, None)?;
    let signals = Signals::watch()?;
    args.choices.unpack_named(&store, &args.image, target, &signals, args.store.json)
}

/// What an image is unpacked to.
#[derive(Clone, Copy)]
pub(crate) enum Target<'a> {
    Dir(&'a Path),
    Layers(&'a Path),
    /// `-` is standard output.
    Tar(&'a Path),
}

/// What came of it.
enum Outcome {
    Tree(Unpacked),
    Layers(LayerStack),
}

impl Choices {
    /// Unpacks the image that `name` means, and prints what came of it.
    pub(crate) fn unpack_named(
        &self,
        store: &Store,
        name: &str,
        target: Target<'_>,
        signals: &Signals,
        json: bool,
    ) -> Result<(), Exit> {
        let (_, image) = names::find(store, name)?;
        let view = ProgressView::new([name], Shown::Auto);
        view.start_unpacking(0, image.size);
        let cx = PullContext::new().with_cancel(signals.token()).with_progress(view.progress(0));
        let outcome = match target {
            Target::Tar(file) => self.unpack_to_tar(store, &image, cx, file).map(Outcome::Tree),
            Target::Layers(dir) => self.unpack_to_layers(store, &image, cx, dir).map(Outcome::Layers),
            Target::Dir(dir) => self.unpack(store, &image, cx, dir).map(Outcome::Tree),
        };
        view.end();
        signals.check()?;
        match (outcome?, target) {
            (Outcome::Layers(stack), _) => print_layers(name, &image, &stack, json),
            (Outcome::Tree(unpacked), Target::Dir(place) | Target::Layers(place) | Target::Tar(place)) => {
                print(name, &image, &unpacked, place, json)
            }
        }
    }

    /// Returns the layer store in a folder, for images that are unpacked while they are pulled.
    pub(crate) fn layer_store(&self, dir: &Path) -> Result<LayerStore, Exit> {
        let mut builder = LayerStore::builder(dir);
        if let Some(owners) = &self.owners {
            builder = builder.owners(owners.clone());
        }
        if self.no_devices {
            builder = builder.devices(Devices::LeaveOut);
        }
        Ok(builder.build()?)
    }

    /// Returns whether a limit is set, which a layer store does not have.
    pub(crate) fn has_limit(&self) -> bool {
        self.max_unpacked.is_some()
    }

    /// Unpacks an image to a folder.
    pub(crate) fn unpack(
        &self,
        store: &Store,
        image: &StoredImage,
        cx: PullContext,
        dir: &Path,
    ) -> Result<Unpacked, Exit> {
        Ok(self.prepare(store, image, cx).into_dir(dir)?)
    }

    fn unpack_to_tar(
        &self,
        store: &Store,
        image: &StoredImage,
        cx: PullContext,
        file: &Path,
    ) -> Result<Unpacked, Exit> {
        let unpack = self.prepare(store, image, cx);
        if file == Path::new("-") {
            return Ok(unpack.into_tar(std::io::stdout().lock())?);
        }
        let out =
            std::fs::File::create(file).map_err(|error| Exit::Own(format!("{}: {error}", file.display())))?;
        Ok(unpack.into_tar(out)?)
    }

    fn unpack_to_layers(
        &self,
        store: &Store,
        image: &StoredImage,
        cx: PullContext,
        dir: &Path,
    ) -> Result<LayerStack, Exit> {
        Ok(self.prepare(store, image, cx).into_layers(&LayerStore::open(dir)?)?)
    }

    fn prepare<'a>(&self, store: &'a Store, image: &'a StoredImage, cx: PullContext) -> Unpack<'a> {
        const MAX_ENTRIES: u64 = 4 << 20;
        let mut unpack = store.unpack(image).context(cx);
        unpack = unpack.limits(self.max_unpacked.unwrap_or(u64::MAX), MAX_ENTRIES);
        if let Some(owners) = &self.owners {
            unpack = unpack.owners(owners.clone());
        }
        if self.no_devices {
            unpack = unpack.devices(Devices::LeaveOut);
        }
        unpack
    }
}

/// Reads `as-image`, `current`, `map=0:100000:65536` or `recorded=FILE`.
fn owners(text: &str) -> Result<Owners, String> {
    let range = |text: &str| {
        let mut numbers = text.split(':').map(str::parse);
        match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(image)), Some(Ok(disk)), Some(Ok(count)), None) => Some(IdRange { image, disk, count }),
            _ => None,
        }
    };
    match text.split_once('=') {
        None if text == "as-image" => Ok(Owners::AsImage),
        None if text == "current" => Ok(Owners::Current),
        Some(("recorded", file)) if !file.is_empty() => Ok(Owners::Recorded(file.into())),
        Some(("map", ranges)) => match ranges.split(',').map(range).collect() {
            Some(ranges) => Ok(Owners::Mapped(ranges)),
            None => Err("write ranges as map=IMAGE:DISK:COUNT, such as map=0:100000:65536".to_owned()),
        },
        _ => Err("write as-image, current, map=IMAGE:DISK:COUNT or recorded=FILE".to_owned()),
    }
}

fn print(name: &str, image: &StoredImage, unpacked: &Unpacked, place: &Path, json: bool) -> Result<(), Exit> {
    if json {
        return output::json(&Line {
            image: name,
            image_ref: image.id.as_str(),
            entries: unpacked.entries,
            files: unpacked.files,
            bytes: unpacked.bytes,
            left_out_devices: unpacked.left_out.devices,
            left_out_xattrs: unpacked.left_out.xattrs,
        });
    }
    let Unpacked { files, bytes, .. } = unpacked;
    say(&format!("{name}: {files} files, {}, unpacked to {}", Bytes(*bytes), place.display()));
    say_left_out(unpacked);
    Ok(())
}

/// Prints the folders of the layers, top first.
fn print_layers(name: &str, image: &StoredImage, stack: &LayerStack, json: bool) -> Result<(), Exit> {
    let folders: Vec<String> = stack.lower().iter().map(|dir| dir.to_string_lossy().into_owned()).collect();
    if json {
        return output::json(&LayersLine {
            image: name,
            image_ref: image.id.as_str(),
            layers: folders,
            mount_options: stack.mount_options(),
        });
    }
    folders.iter().try_for_each(|folder| output::line(folder))
}

/// Says what was left out, if anything was.
pub(crate) fn say_left_out(unpacked: &Unpacked) {
    let left_out =
        [(unpacked.left_out.devices, "devices"), (unpacked.left_out.xattrs, "extended attributes")];
    for (count, what) in left_out.into_iter().filter(|(count, _)| *count > 0) {
        say(&format!("warning: {count} {what} were left out: this user or disk cannot have them"));
    }
}

/// The JSON of an unpacked image; `--help` documents it.
#[derive(Serialize)]
struct Line<'a> {
    image: &'a str,
    image_ref: &'a str,
    entries: u64,
    files: u64,
    bytes: u64,
    left_out_devices: u64,
    left_out_xattrs: u64,
}

/// The JSON of an image's layers; `--help` documents it.
#[derive(Serialize)]
struct LayersLine<'a> {
    image: &'a str,
    image_ref: &'a str,
    layers: Vec<String>,
    mount_options: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_read_as_they_are_documented() {
        assert_eq!(owners("as-image"), Ok(Owners::AsImage));
        assert_eq!(owners("current"), Ok(Owners::Current));
        assert_eq!(owners("recorded=/x=y"), Ok(Owners::Recorded("/x=y".into())));
        let range = |image, disk, count| IdRange { image, disk, count };
        let expected = Owners::Mapped(vec![range(0, 1000, 1), range(1, 100_000, 65_535)]);
        assert_eq!(owners("map=0:1000:1,1:100000:65535"), Ok(expected));
        for text in ["", "root", "map=", "map=1:2", "map=1:2:3:4", "map=a:b:c", "recorded=", "recorded"] {
            assert!(owners(text).is_err(), "{text}");
        }
    }
}
