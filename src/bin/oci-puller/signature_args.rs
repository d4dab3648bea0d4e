//! `--policy` and `--require-key`: which images must be signed.

use std::path::PathBuf;

use clap::Args;
use oci_puller::signatures::{SignaturePolicy, Signer};

use crate::args;
use crate::exit::Exit;

/// Which images must be signed, and with which keys.
#[derive(Args)]
pub(crate) struct SignatureArgs {
    /// Take only images that this policy.json of podman and skopeo accepts
    #[arg(long, value_name = "FILE", value_parser = args::existing_file, help_heading = "Signatures")]
    #[arg(conflicts_with = "require_key")]
    policy: Option<PathBuf>,
    /// Require that the key (PEM) has signed the images in SCOPE, such as docker.io/library or quay.io/team/app;
    /// images in no SCOPE are refused
    #[arg(long, value_name = "SCOPE=FILE", value_parser = scope_and_key, help_heading = "Signatures")]
    require_key: Vec<(String, PathBuf)>,
}

impl SignatureArgs {
    /// The arguments, which a container runtime has no use for.
    pub(crate) const ALL: [&str; 2] = ["policy", "require_key"];

    /// Reads the policy; `None` if neither argument is given.
    pub(crate) fn policy(&self) -> Result<Option<SignaturePolicy>, Exit> {
        if let Some(file) = &self.policy {
            return Ok(Some(SignaturePolicy::from_policy_json(file)?));
        }
        if self.require_key.is_empty() {
            return Ok(None);
        }
        let mut policy = SignaturePolicy::builder();
        for (scope, file) in &self.require_key {
            policy = policy.require(scope, signer(file)?);
        }
        Ok(Some(policy.build()?))
    }
}

fn signer(file: &PathBuf) -> Result<Signer, Exit> {
    let failed = |what: &dyn std::fmt::Display| Exit::Own(format!("{}: {what}", file.display()));
    let pem = std::fs::read(file).map_err(|error| failed(&error))?;
    Signer::key(pem).map_err(|error| failed(&error.message()))
}

fn scope_and_key(text: &str) -> Result<(String, PathBuf), String> {
    let (scope, file) = text.split_once('=').ok_or("write SCOPE=FILE, such as quay.io/team=key.pem")?;
    if scope.is_empty() {
        return Err("the scope is missing: write SCOPE=FILE, such as quay.io/team=key.pem".to_owned());
    }
    Ok((scope.to_owned(), args::existing_file(file).map_err(|error| format!("{file}: {error}"))?))
}
