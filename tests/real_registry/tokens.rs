//! x
pub const TESTS: &[crate::Test] = &[];
