//! Chores of the repository: purity checks, configuration reference.

fn main() {}
