//! Unpacks the layers of an image into a root file system.
//!
//! [`Unpack`] writes one folder or a tar; [`LayerStore`] keeps one folder for each layer, for overlay mounts.

// `stream` decompresses and hashes a layer, the room `tar` reads its entries, `change` turns each entry into the
// change that it makes, and `merge` applies the change to the `tree` of the layers below and to the `output`: a
// folder (`dir_output`), a folder for each layer (`layers`), or a tar (`tar_output`). The tree alone decides what the image
// holds, so every output holds the same.

mod beneath;
mod change;
mod dir_output;
mod fault;
mod finish_dirs;
mod flush;
mod folder;
mod growing;
mod image;
mod job;
mod layers;
mod load_record;
mod merge;
mod output;
mod path;
mod record;
mod remove;
mod rules;
mod run;
mod settings;
mod stream;
mod tar_output;
mod tree;
mod turn;
mod user;
mod whiteouts;

pub(crate) use growing::GrowingImage;
pub use image::Unpack;
pub use layers::{DamagedLayer, LayerStack, LayerStore, LayerStoreBuilder};
pub use settings::{Devices, IdRange, LeftOut, Owners, Unpacked, Xattrs};
pub use user::User;

#[cfg(not(target_os = "linux"))]
compile_error!("the feature `unpack` is for Linux only");
