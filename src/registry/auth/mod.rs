//! Authorization: credentials and tokens in answer to the challenges of a host.
//!
//! By the [distribution project's token specification](https://distribution.github.io/distribution/spec/auth/token/)
//! and its [OAuth2 variant](https://distribution.github.io/distribution/spec/auth/oauth/).

mod cache;
mod challenge;
mod scheme;
mod scope;
mod token_server;

pub(super) use cache::{Authorization, ChallengeOutcome, TokenCache};
#[cfg(fuzzing)]
pub(super) use challenge::parse as parse_challenge;
pub(super) use scope::TokenScope;
