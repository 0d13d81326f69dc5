//! The Tertulia meeting server.

fn main() {}
