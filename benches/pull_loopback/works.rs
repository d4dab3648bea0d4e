//! The works: the images that each program pulls.

use std::sync::Arc;

use oci_puller::image::Digest;
use oci_puller::testing::images::{Image, ImageBuilder, Part};

use super::gzip;
use super::units::bytes_for_people;

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

const MIB: f64 = 1024.0 * 1024.0;
const LAYERS_OF_A: [f64; 8] = [60.0, 35.0, 25.0, 15.0, 8.0, 5.0, 1.5, 0.5];
const SHARED_IN_D: [f64; 6] = [25.0, 15.0, 10.0, 6.0, 3.0, 1.0];
const IMAGES_OF_D: u64 = 20;
const IMAGES_OF_E: f64 = 200.0;
const LAYER_OF_E: usize = 10 * 1024;

/// Images that are pulled together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Layers of all sizes.
    A,
    /// Many small layers.
    B,
    /// One large layer.
    C,
    /// Images that have most of their layers in common.
    D,
    /// Many small images.
    E,
}

impl Work {
    pub(crate) const ALL: [Work; 5] = [Work::A, Work::B, Work::C, Work::D, Work::E];

    pub(crate) fn named(name: &str) -> Option<Work> {
        Work::ALL.into_iter().find(|work| work.letter().eq_ignore_ascii_case(name))
    }

    pub(crate) fn letter(self) -> &'static str {
        match self {
            Work::A => "A",
            Work::B => "B",
            Work::C => "C",
            Work::D => "D",
            Work::E => "E",
        }
    }

    /// What it is at this scale; 1 is its full size.
    pub(crate) fn title(self, scale: f64) -> String {
        let size = |mib: f64| bytes_for_people(scaled(mib, scale) as u64);
        match self {
            Work::A => format!("A: 8 layers, {}", size(LAYERS_OF_A.iter().sum())),
            Work::B => format!("B: 40 layers of {}", size(0.25)),
            Work::C => format!("C: one layer of {}", size(512.0)),
            Work::D => {
                let shared = size(SHARED_IN_D.iter().sum());
                format!("D: {IMAGES_OF_D} images that share {shared}, {} each of their own", size(2.0))
            }
            Work::E => format!("E: {} images of one 10 KiB layer", images_of_e(scale)),
        }
    }

    /// Of all layers, each counted once.
    pub(crate) fn bytes(self, scale: f64) -> u64 {
        let scaled = |mib: f64| scaled(mib, scale) as u64;
        match self {
            Work::A => LAYERS_OF_A.map(scaled).iter().sum(),
            Work::B => 40 * scaled(0.25),
            Work::C => scaled(512.0),
            Work::D => SHARED_IN_D.map(scaled).iter().sum::<u64>() + IMAGES_OF_D * scaled(2.0),
            Work::E => images_of_e(scale) * LAYER_OF_E as u64,
        }
    }

    /// Makes the images.
    pub(crate) fn images(self, scale: f64) -> Vec<Image> {
        let scaled = |mib: f64| scaled(mib, scale);
        match self {
            Work::A => vec![image_of("bench/a", 1, LAYERS_OF_A.map(scaled))],
            Work::B => vec![image_of("bench/b", 2, [scaled(0.25); 40])],
            Work::C => vec![image_of("bench/c", 3, [scaled(512.0)])],
            Work::D => images_that_share(SHARED_IN_D.map(scaled), scaled(2.0)),
            Work::E => (0..images_of_e(scale))
                .map(|number| image_of(&format!("bench/e{number:03}"), number, [LAYER_OF_E]))
                .collect(),
        }
    }
}

fn scaled(mib: f64, scale: f64) -> usize {
    (mib * MIB * scale) as usize
}

fn images_of_e(scale: f64) -> u64 {
    ((IMAGES_OF_E * scale) as u64).max(1)
}

fn image_of(repository: &str, seed: u64, sizes: impl IntoIterator<Item = usize>) -> Image {
    image(repository, &layers(repository, seed, sizes))
}

/// The shared layers are made once: twenty copies would be as much memory again as work C.
fn images_that_share(shared: [usize; 6], own: usize) -> Vec<Image> {
    let base = layers("bench/d", 0, shared);
    let upon_base = |number| {
        let repository = format!("bench/d{number:02}");
        image(&repository, &[&base[..], &layers(&repository, number, [own])].concat())
    };
    (0..IMAGES_OF_D).map(upon_base).collect()
}

#[derive(Clone)]
struct Layer {
    compressed: Arc<[u8]>,
    /// Of the archive within.
    diff_id: Digest,
}

/// Layers that no other repository or seed has, about this many bytes each.
fn layers(repository: &str, seed: u64, sizes: impl IntoIterator<Item = usize>) -> Vec<Layer> {
    let archives =
        sizes.into_iter().fold(ImageBuilder::new(repository).seed(seed), ImageBuilder::layer).build();
    let layer = |archive: &Part| Layer {
        compressed: gzip::stored(&archive.data).into(),
        diff_id: archive.digest.clone(),
    };
    archives.layers().iter().map(layer).collect()
}

fn image(repository: &str, layers: &[Layer]) -> Image {
    let with = |image: ImageBuilder, layer: &Layer| {
        image.layer_made(GZIP, layer.compressed.clone(), layer.diff_id.clone())
    };
    layers.iter().fold(ImageBuilder::new(repository), with).build()
}
