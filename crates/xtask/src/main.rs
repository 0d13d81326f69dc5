//! Chores of the repository. `cargo run -p xtask -- tidy` proves what the compiler does not.

mod floors;
mod sources;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let command = std::env::args().nth(1).unwrap_or_default();
    if command != "tidy" {
        eprintln!("usage: cargo run -p xtask -- tidy");
        return ExitCode::from(2);
    }
    let findings = match tidy(&repository()) {
        Ok(findings) => findings,
        Err(error) => {
            eprintln!("tidy could not look: {error}");
            return ExitCode::FAILURE;
        }
    };
    for finding in &findings {
        eprintln!("{finding}");
    }
    println!("tidy: {} findings", findings.len());
    if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Everything that is wrong, one sentence each.
fn tidy(root: &Path) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let mut findings = floors::check(root)?;
    findings.extend(sources::check(root)?);
    Ok(findings)
}

fn repository() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).unwrap_or(own).to_path_buf()
}
