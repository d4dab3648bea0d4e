//! Image references: parse, normalise, print.
