//! The sources: every file says what it owns, and the pure floors name no clock, socket, lock or task.

use std::path::{Path, PathBuf};

/// Crates whose code, tests apart, is pure.
const PURE: &[&str] = &["model", "rtp", "xmpp", "sfu", "conference"];

/// What pure code does not name, and what it would be.
const BANNED: &[(&str, &str)] = &[
    ("Instant::now", "a clock"),
    ("SystemTime::now", "a clock"),
    ("UNIX_EPOCH.elapsed", "a clock"),
    ("std::net::UdpSocket", "a socket"),
    ("std::net::TcpStream", "a socket"),
    ("std::net::TcpListener", "a socket"),
    ("std::thread", "a thread"),
    ("std::fs", "a disk"),
    ("std::env", "the environment"),
    ("Mutex<", "a lock"),
    ("RwLock<", "a lock"),
    ("OnceLock", "a global"),
    ("LazyLock", "a global"),
    ("thread_local!", "a global"),
    ("static mut", "a global"),
    ("async fn", "a task"),
    (".await", "a task"),
    ("println!", "a terminal"),
    ("RandomState", "unseeded chance"),
    ("HashMap::new()", "unseeded chance"),
    ("HashSet::new()", "unseeded chance"),
];

/// Findings about source files.
pub(crate) fn check(root: &Path) -> std::io::Result<Vec<String>> {
    let mut findings = Vec::new();
    for file in rust_files(&root.join("crates"))? {
        let text = std::fs::read_to_string(&file)?;
        let shown = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        if !text.starts_with("//!") {
            findings.push(format!("{shown}: the first line does not say what the file owns"));
        }
        let is_pure = PURE.iter().any(|name| shown.starts_with(&format!("crates/{name}/src/")));
        if is_pure && !shown.ends_with("/tests.rs") {
            findings.extend(impurities(&shown, &text));
        }
    }
    for name in PURE {
        let lib = std::fs::read_to_string(root.join(format!("crates/{name}/src/lib.rs")))?;
        if !lib.contains("#![forbid(unsafe_code)]") {
            findings.push(format!("crates/{name}: does not forbid unsafe code"));
        }
    }
    Ok(findings)
}

/// Banned names in the part of a file before its tests.
fn impurities(shown: &str, text: &str) -> Vec<String> {
    // The tests of a file are its last item; other items for tests only may stand anywhere.
    let end = text.find("\n#[cfg(test)]\nmod tests").unwrap_or(text.len());
    let code = text[..end].lines().enumerate();
    let code = code.filter(|(_, line)| !line.trim_start().starts_with("//"));
    code.flat_map(|(number, line)| {
        BANNED.iter().filter(move |(name, _)| names(line, name)).map(move |hit| (number, hit))
    })
    .map(|(number, (name, what))| format!("{shown}:{}: `{name}` is {what}; floors 0 and 1 are pure", number + 1))
    .collect()
}

/// Whether a line has a banned name, and not merely a longer one that begins with it.
fn names(line: &str, name: &str) -> bool {
    let whole = |at: usize| {
        let (last, next) = (name.chars().next_back(), line[at + name.len()..].chars().next());
        let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !(word(last) && word(next))
    };
    line.match_indices(name).any(|(at, _)| whole(at))
}

fn rust_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_in_pure_code_is_found_and_in_its_tests_allowed() {
        let text =
            "//! x\nlet a = Instant::now();\n// Instant::now\n#[cfg(test)]\nmod tests {\nlet b = Instant::now();\n";
        let findings = impurities("f.rs", text);
        assert_eq!(findings, ["f.rs:2: `Instant::now` is a clock; floors 0 and 1 are pure"]);
    }

    #[test]
    fn names_are_whole_words_and_what_is_only_tested_hides_nothing_behind_it() {
        let text = "//! x\n#[cfg(test)]\nfn a() {}\nself.awaits();\nb.await;\n";
        assert_eq!(impurities("f.rs", text), ["f.rs:5: `.await` is a task; floors 0 and 1 are pure"]);
    }
}
