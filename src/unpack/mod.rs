//! Unpacks the layers of an image into a root file system.
//!
//! [`Unpack`] writes one folder or a tar; [`LayerStore`] keeps one folder for each layer, for overlay mounts.

// `stream` decompresses and hashes a layer, the room `tar` reads its entries, `change` turns each entry into the
// change that it makes, and `merge` applies the change to the `tree` of the layers below and to the `output`: a
// folder (`dir`), a folder for each layer (`layers`), or a tar (`spool`). The tree alone decides what the image
// holds, so every output holds the same.

mod beneath;
mod change;
mod dir;
mod fault;
mod finish;
mod flush;
mod folder;
mod growing;
mod hide;
mod image;
mod job;
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

pub(crate) use growing::GrowingImage;
pub use image::Unpack;
pub use layers::{DamagedLayer, LayerStack, LayerStore, LayerStoreBuilder};
pub use settings::{Devices, IdRange, LeftOut, Owners, Unpacked, Xattrs};
pub use user::User;

#[cfg(not(target_os = "linux"))]
compile_error!("the feature `unpack` is for Linux only");
