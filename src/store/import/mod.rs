//! Taking images in from archives and folders, for machines without a network.
//!
//! What no image uses is removed again at the end, as all is if anything is wrong. Whatever an archive
//! says, an import reads each document once, keeps little in memory ([`limits`]), and ends with its
//! context.

mod archive;
mod catalog;
mod docker;
mod error;
mod limits;
mod naming;
mod options;
mod run;
mod session;
mod signatures;
mod source;

pub use options::{ImportOptions, Imported, SkippedImage};
