//! `--unpack` and `--layers`: pulled images become root file systems.

use std::path::PathBuf;

use clap::Args;
use oci_puller::Store;
use oci_puller::registry::RegistryImageServiceBuilder;

use crate::args::usage;
use crate::command::unpack::{Choices, Target};
use crate::exit::Exit;
use crate::signals::Signals;

/// Where pulled images are unpacked.
#[derive(Args)]
pub(super) struct UnpackingArgs {
    /// Unpack the image to a root file system in DIR when it is pulled; for one image
    #[arg(long, value_name = "DIR", conflicts_with = "layers", help_heading = "Unpacking")]
    unpack: Option<PathBuf>,
    /// Unpack each image while it is pulled, each layer to a folder of its own below DIR, for overlayfs, and
    /// print the folders, top first
    #[arg(long, value_name = "DIR", help_heading = "Unpacking")]
    layers: Option<PathBuf>,
    #[command(flatten)]
    choices: Choices,
}

impl UnpackingArgs {
    /// The arguments, which a container runtime has no use for.
    pub(super) const ALL: [&str; 5] = ["unpack", "layers", "owners", "no_devices", "max_unpacked"];

    /// Refuses what contradicts itself.
    pub(super) fn check(&self, images: usize, has_several_platforms: bool) -> Result<(), Exit> {
        let wrong = match (&self.unpack, &self.layers) {
            (Some(_), _) if images > 1 => "--unpack is for one image",
            (Some(_), _) | (_, Some(_)) if has_several_platforms => {
                "--unpack and --layers are for images of one platform"
            }
            (_, Some(_)) if self.choices.has_limit() => "--max-unpacked is for --unpack",
            _ => return Ok(()),
        };
        Err(usage("pull", wrong))
    }

    /// Has the service unpack what it pulls.
    pub(super) fn apply(
        &self,
        builder: RegistryImageServiceBuilder,
    ) -> Result<RegistryImageServiceBuilder, Exit> {
        Ok(match &self.layers {
            Some(dir) => builder.unpack_into(self.choices.layer_store(dir)?),
            None => builder,
        })
    }

    /// Unpacks what was not unpacked while it was pulled, and prints where it is.
    pub(super) fn finish(
        &self,
        store: &Store,
        images: &[String],
        signals: &Signals,
        json: bool,
    ) -> Result<(), Exit> {
        let target = match (&self.unpack, &self.layers) {
            (Some(dir), _) => Target::Dir(dir),
            (None, Some(dir)) => Target::Layers(dir),
            (None, None) => return Ok(()),
        };
        images.iter().try_for_each(|image| self.choices.unpack_named(store, image, target, signals, json))
    }
}
