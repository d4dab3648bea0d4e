//! The image service over HTTP.

#[expect(dead_code, reason = "used by the service")]
mod challenge;
#[cfg_attr(not(test), expect(dead_code, reason = "used by the service"))]
mod headers;
#[expect(dead_code, reason = "used by the service")]
mod hosts;
#[cfg_attr(not(test), expect(dead_code, reason = "used by the service"))]
mod policy;
