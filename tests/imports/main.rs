//! Imports of archives and layouts: as tools write them, and hostile ones.

#![allow(clippy::unwrap_used)]

mod compression;
mod forms;
mod limits;
mod made;
mod names;
mod platforms;
