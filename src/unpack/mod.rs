//! Unpacks the layers of an image into a root file system.
//!
//! A layer's way: [`stream`] decompresses and hashes it, the room `tar` reads its entries, [`change`] makes of
//! each what it changes, and [`merge`] applies that to the [`tree`] that the layers below it made,
//! and to the [`output`]: a folder ([`dir`]), a folder
//! for each layer ([`layers`]), or a tar ([`spool`]). What the image holds is decided by the
//! tree alone, so that every output holds the same.

mod beneath;
mod change;
mod dir;
mod fault;
mod finish;
mod flush;
mod folder;
mod hide;
mod image;
mod layers;
mod load;
mod merge;
mod output;
mod path;
mod record;
mod remove;
mod rules;
mod run;
mod settings;
mod spool;
mod stream;
mod tree;
mod turn;
mod user;

pub use image::Unpack;
pub use layers::{DamagedLayer, LayerStack, LayerStore, LayerStoreBuilder};
pub use settings::{Devices, IdRange, LeftOut, Owners, Unpacked, Xattrs};
pub use user::User;

#[cfg(not(target_os = "linux"))]
compile_error!("the feature `unpack` is for Linux only");
