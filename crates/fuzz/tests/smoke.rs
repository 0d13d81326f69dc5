//! Every target with its corpus, then with a fixed number of mutations of it. A failure prints the input as hexadecimal digits: put it into
//! `corpus/<target>/` as a file of those digits, and it is replayed for ever.

#![allow(clippy::unwrap_used)] // a broken promise is meant to panic

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use tertulia_fuzz::mutate::{Random, mutate};
use tertulia_fuzz::targets::{ALL, Target};

/// Mutations of each target. The seed is fixed: the same run everywhere.
const ROUNDS: usize = 4_000;

#[test]
fn every_target_keeps_its_promises() {
    std::thread::scope(|scope| {
        for target in ALL {
            scope.spawn(|| run(*target));
        }
    });
}

fn run((name, target): Target) {
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "{name} has no corpus");
    for input in &corpus {
        check(name, target, input);
    }
    let mut random = Random(0x7e27_u64 ^ name.len() as u64);
    for _ in 0..ROUNDS {
        let mut input = corpus[random.below(corpus.len())].clone();
        let other = corpus[random.below(corpus.len())].clone();
        mutate(&mut random, &mut input, &other);
        check(name, target, &input);
    }
}

fn check(name: &str, target: fn(&[u8]), input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("{name} broke its promise: {hex}");
    }
}

/// Files: text as it is for targets that take text, hexadecimal digits with white space for the others.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap())
        .map(|text| unhex(&text).unwrap_or(text.into_bytes()))
        .collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    Some(digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair.get(1).unwrap_or(&0)).unwrap()).collect())
}

#[test]
fn the_scripts_of_meetings_switch_between_encodings() {
    let most = corpus("sfu").iter().map(|input| tertulia_fuzz::targets::encodings_seen(input)).max();
    assert_eq!(most, Some(3), "else nothing is known of switches");
}
