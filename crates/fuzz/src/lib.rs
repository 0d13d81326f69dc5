//! One target per parser: a plain function that panics when a promise is broken. `tests/smoke.rs` runs them all with mutated input;
//! any fuzzer can call them.

#![allow(clippy::unwrap_used)] // a broken promise is meant to panic

pub mod mutate;
pub mod targets;
