//! Sizes in messages.

use std::fmt;

/// A number of bytes as people read it, such as `12.6 MB`; a kB is 1,000 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size(pub(crate) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut unit = 1000;
        if self.0 < unit {
            return write!(f, "{} bytes", self.0);
        }
        for name in ["kB", "MB", "GB", "TB"] {
            // 999.95 would print as 1000.0.
            if self.0 < unit * 1000 - unit / 20 {
                return write!(f, "{:.1} {name}", self.0 as f64 / unit as f64);
            }
            unit *= 1000;
        }
        write!(f, "{:.1} PB", self.0 as f64 / unit as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (999, "999 bytes"),
            (1000, "1.0 kB"),
            (999_950, "1.0 MB"),
            (50_000_000_000_000, "50.0 TB"),
            (u64::MAX, "18446.7 PB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
