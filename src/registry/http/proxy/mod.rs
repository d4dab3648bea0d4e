//! Which proxy a request goes through, by the rules of Go's
//! [`httpproxy`](https://pkg.go.dev/golang.org/x/net/http/httpproxy), which other clients of registries
//! follow.

mod choice;
mod exceptions;
mod tunnel;
mod url;

pub(crate) use self::choice::{Proxies, ProxyChoice};
#[cfg(fuzzing)]
pub(crate) use self::exceptions::fuzz as fuzz_exceptions;
pub(super) use self::tunnel::refusal;
pub(super) use self::url::Proxy;
