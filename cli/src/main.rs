//! The `polyfs` binary.
fn main() {}
