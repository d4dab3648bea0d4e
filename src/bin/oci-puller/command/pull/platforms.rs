//! `--platform` and `--all-platforms`: which images of an index are pulled.

use clap::Args;
use oci_puller::image::Platform;
use oci_puller::registry::RegistryImageServiceBuilder;

use crate::args;

/// Which images of an index are pulled.
#[derive(Args)]
pub(super) struct PlatformArgs {
    /// Pull for this platform; given several times, the index is kept with the images for all of them. Default:
    /// this machine's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = args::platform)]
    platform: Vec<Platform>,
    /// Keep the index, and pull all that it lists
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
}

impl PlatformArgs {
    /// The arguments, which a container runtime has no use for.
    pub(super) const ALL: [&str; 2] = ["platform", "all_platforms"];

    pub(super) fn all(&self) -> bool {
        self.all_platforms
    }

    /// Returns the platforms if they are several.
    pub(super) fn several(&self) -> &[Platform] {
        if self.platform.len() > 1 { &self.platform } else { &[] }
    }

    pub(super) fn apply(&self, builder: RegistryImageServiceBuilder) -> RegistryImageServiceBuilder {
        match &self.platform[..] {
            [] if self.all_platforms => builder.all_platforms(),
            [] => builder,
            [platform] => builder.platform(platform.clone()),
            several => builder.platforms(several.iter().cloned()),
        }
    }
}
