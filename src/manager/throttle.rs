//! The throttle's decision about a request that needs a pull.

/// What happens to a request that needs a pull while the throttle has no token.
///
/// Neither is a failure of the image, so there is no back-off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ThrottleMode {
    /// The request is refused with `RateLimited`, whatever its policy, as by kubelet. The default. Sharing a
    /// pull that waits or runs needs no token.
    #[default]
    Refuse,
    /// The request waits for its turn, and can be cancelled meanwhile.
    Wait,
}
