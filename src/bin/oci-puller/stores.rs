//! The stores that commands read.

use std::path::Path;

use oci_puller::Store;
use oci_puller::image::Platform;

use crate::exit::Exit;
use crate::stderr::say;

/// Returns whether there is a folder with something in it, which may be a store.
pub(crate) fn exists(dir: &Path) -> bool {
    let is_empty = dir.read_dir().is_ok_and(|mut entries| entries.next().is_none());
    dir.exists() && !is_empty
}

/// Opens the store in `dir` for a platform, by default this machine's. Returns `None`, and says so, if there is no
/// store: a command that only reads creates none.
pub(crate) fn open_existing(dir: &Path, platform: Option<&Platform>) -> Result<Option<Store>, Exit> {
    if !exists(dir) {
        say(&absent(dir));
        return Ok(None);
    }
    open(dir, platform).map(Some)
}

/// Opens the store in `dir`, which must exist, for a platform, by default this machine's.
pub(crate) fn open(dir: &Path, platform: Option<&Platform>) -> Result<Store, Exit> {
    if !exists(dir) {
        return Err(Exit::Own(format!(
            "{}; pull an image, or give another folder with --store",
            absent(dir)
        )));
    }
    let builder = Store::builder(dir);
    let builder = match platform {
        Some(platform) => builder.platform(platform.clone()),
        None => builder,
    };
    Ok(builder.build()?)
}

fn absent(dir: &Path) -> String {
    format!("there is no store at {} yet", dir.display())
}
