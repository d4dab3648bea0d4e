//! Credentials for registries: from the request's pull secrets, from the service's builder, from the files of
//! Docker and podman, and from their credential helpers.

pub(crate) mod config_file;
mod credential;
mod docker_config;
mod files;
mod glob;
pub(crate) mod go_duration;
mod helper;
mod keyring;
mod lookup;
mod pull_secrets;
mod query;
mod sources;
#[cfg(feature = "yaml")]
mod yaml;

pub use credential::{Credential, ExposedCredential};
pub(crate) use credential::{CredentialKind, Secret};
#[cfg(fuzzing)]
pub use docker_config::fuzz as docker_config;
pub(crate) use files::FileKind;
pub use keyring::Keyring;
pub(crate) use lookup::FoundCredential;
pub use query::CredentialQuery;
pub(crate) use sources::Credentials;
pub use sources::Keychain;
