//! Options of `pull` that bound what it uses.

use clap::{Args, ValueEnum};
use oci_puller::registry::RegistryImageServiceBuilder;
use oci_puller::store::Durability;

use crate::args;

/// The size of a chunk if only the smallest blob is given, bytes.
const CHUNK: u64 = 4 << 20;

#[derive(Args)]
pub(super) struct LimitArgs {
    /// What a finished pull survives: power loss (full), or the end of the process (relaxed, faster)
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Survives::Full, help_heading = "Limits")]
    durability: Survives,
    /// Fetch N blobs at a time, over all images [default: 32]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    #[arg(help_heading = "Limits")]
    downloads: Option<u16>,
    /// Fetch blobs from this size on in chunks, several at a time; never: off [default: 8MiB,4MiB]
    #[arg(long, visible_alias = "pieces", value_name = "FROM[,SIZE]", value_parser = chunks)]
    #[arg(help_heading = "Limits")]
    chunks: Option<(u64, u64)>,
    /// Fetch at most this many bytes a second, over all images, such as 2M or 500kB. Default: no limit
    #[arg(long, value_name = "RATE", value_parser = args::bytes, help_heading = "Limits")]
    limit_rate: Option<u64>,
    /// Refuse images of more bytes, such as 2GiB; config and layers count, each once. Default: no limit
    #[arg(long, value_name = "SIZE", value_parser = args::bytes, help_heading = "Limits")]
    max_image_size: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Survives {
    Full,
    Relaxed,
}

impl LimitArgs {
    /// The arguments, which a container runtime has no use for.
    pub(super) const ALL: [&str; 5] = ["durability", "downloads", "chunks", "limit_rate", "max_image_size"];

    pub(super) fn apply(&self, builder: RegistryImageServiceBuilder) -> RegistryImageServiceBuilder {
        let mut builder = builder.durability(match self.durability {
            Survives::Full => Durability::Full,
            Survives::Relaxed => Durability::Relaxed,
        });
        if let Some(downloads) = self.downloads {
            builder = builder.downloads(downloads.into());
        }
        if let Some((from, size)) = self.chunks {
            builder = builder.chunks(from, size);
        }
        if let Some(rate) = self.limit_rate {
            builder = builder.bandwidth_limit(rate);
        }
        if let Some(bytes) = self.max_image_size {
            builder = builder.max_image_size(bytes);
        }
        builder
    }
}

/// Reads the smallest blob that is fetched in chunks, and the size of a chunk.
fn chunks(text: &str) -> Result<(u64, u64), String> {
    if text == "off" {
        return Ok((u64::MAX, CHUNK));
    }
    let (from, size) = match text.split_once([',', ':']) {
        Some((from, size)) => (args::bytes(from)?, args::bytes(size)?),
        None => (args::bytes(text)?, CHUNK),
    };
    if size == 0 {
        return Err("a chunk of 0 bytes is not possible".to_owned());
    }
    Ok((from, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_given_by_one_size_or_two() {
        for (text, expected) in [
            ("8MiB", Some((8 << 20, CHUNK))),
            ("8MiB,1MiB", Some((8 << 20, 1 << 20))),
            ("1000000:500kB", Some((1_000_000, 500_000))),
            ("off", Some((u64::MAX, CHUNK))),
            ("8MiB,0", None),
            ("large", None),
            ("", None),
        ] {
            assert_eq!(chunks(text).ok(), expected, "{text}");
        }
    }
}
