//! Imports: archives and layouts as tools write them, and as nobody should.

#![allow(clippy::unwrap_used)]

mod forms;
mod limits;
mod made;
mod names;
mod platforms;
