//! Unpacked layers, each once, for overlayfs.
//!
//! ```text
//! ROOT/
//!   layers.json              version, and the settings that all layers were unpacked with
//!   <chain id in hex>/       a layer; the name comes when all in it is durable
//!     fs/                    what overlayfs gets
//!     entries                what is in it, as JSON lines
//!   images/<image id>        the chain ids of an image's layers, the base first
//!   leases/<process>-<n>     locked while a stack or an unpack lives: layers that it uses
//!   tmp/<process>-<n>/       layers that are being unpacked, and a locked file
//!   lock                     shared to take a lease, exclusive to remove layers
//! ```

mod fixed_settings;
mod handle;
mod lease;
mod open;
mod output;
mod prune;
mod settings;
mod stack;
mod verify;

pub use handle::LayerStore;
pub use open::LayerStoreBuilder;
pub(super) use output::LayersOutput;
pub(super) use prune::chain;
pub use stack::LayerStack;
pub use verify::DamagedLayer;
