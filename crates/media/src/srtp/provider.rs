//! Who computes AES-GCM. Two libraries are built in, because which of them is the faster one differs by processor and by factors: the first
//! use tries both for some milliseconds and keeps one for the life of the process.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tracing::info;

/// Bytes of an authentication tag.
pub(super) const TAG_LEN: usize = 16;
/// What the self-test seals: a full packet of video.
const PACKET_LEN: usize = 1_180;
/// How many in one go, and how often each library gets a go; the best go counts. Under five milliseconds in all on slow machines.
const PACKETS: usize = 128;
const GOES: usize = 9;

/// A library that computes AES-GCM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// `aws-lc-rs`: the faster one with AVX-512.
    AwsLc,
    /// `ring`: the faster one with AVX2 and VAES.
    Ring,
}

static CHOSEN: OnceLock<Provider> = OnceLock::new();

/// The library of this process.
pub fn chosen() -> Provider {
    *CHOSEN.get_or_init(|| {
        let (aws_lc, ring) = self_test();
        let provider = if ring < aws_lc { Provider::Ring } else { Provider::AwsLc };
        info!(?provider, aws_lc_ns = aws_lc.as_nanos(), ring_ns = ring.as_nanos(), "cipher chosen");
        provider
    })
}

/// Chooses without a test, for measurements that must be alike everywhere. `false` when the choice was made already.
pub fn choose(provider: Provider) -> bool {
    CHOSEN.set(provider).is_ok()
}

/// How long `aws-lc-rs` and `ring` take to seal a full packet. They take turns, so that what else the machine does hits both.
pub fn self_test() -> (Duration, Duration) {
    let mut best = [Duration::MAX; 2];
    let keys = [Provider::AwsLc, Provider::Ring].map(|provider| GcmKey::new(provider, &[7; 32]));
    let mut packet = [0x55; PACKET_LEN];
    for _ in 0..GOES {
        for (key, best) in keys.iter().zip(&mut best) {
            let Some(key) = key else { continue };
            let start = Instant::now();
            for number in 0..PACKETS {
                let mut nonce = [0; 12];
                nonce[4..].copy_from_slice(&(number as u64).to_be_bytes());
                std::hint::black_box(key.seal(nonce, &[0; 20], &mut packet));
            }
            *best = start.elapsed().min(*best);
        }
    }
    let [aws_lc, ring] = best.map(|best| best / PACKETS as u32);
    (aws_lc, ring)
}

/// An AES-GCM key, its schedule computed once.
pub(super) enum GcmKey {
    AwsLc(aws_lc_rs::aead::LessSafeKey),
    Ring(Box<ring::aead::LessSafeKey>),
}

impl GcmKey {
    /// A key of 16 or 32 bytes.
    pub(super) fn new(provider: Provider, key: &[u8]) -> Option<Self> {
        Some(match provider {
            Provider::AwsLc => {
                use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, LessSafeKey, UnboundKey};
                let algorithm = if key.len() == 32 { &AES_256_GCM } else { &AES_128_GCM };
                Self::AwsLc(LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?))
            }
            Provider::Ring => {
                use ring::aead::{AES_128_GCM, AES_256_GCM, LessSafeKey, UnboundKey};
                let algorithm = if key.len() == 32 { &AES_256_GCM } else { &AES_128_GCM };
                Self::Ring(Box::new(LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?)))
            }
        })
    }

    /// Encrypts in place and returns the tag. A nonce must never be used twice with one key.
    pub(super) fn seal(&self, nonce: [u8; 12], clear: &[u8], text: &mut [u8]) -> Option<[u8; TAG_LEN]> {
        match self {
            Self::AwsLc(key) => {
                use aws_lc_rs::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.seal_in_place_separate_tag(nonce, Aad::from(clear), text).ok()?.as_ref().try_into().ok()
            }
            Self::Ring(key) => {
                use ring::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.seal_in_place_separate_tag(nonce, Aad::from(clear), text).ok()?.as_ref().try_into().ok()
            }
        }
    }

    /// Decrypts text and tag in place and returns the text's length. `None` when it does not authenticate.
    pub(super) fn open(&self, nonce: [u8; 12], clear: &[u8], sealed: &mut [u8]) -> Option<usize> {
        match self {
            Self::AwsLc(key) => {
                use aws_lc_rs::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, Aad::from(clear), sealed).ok().map(|text| text.len())
            }
            Self::Ring(key) => {
                use ring::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, Aad::from(clear), sealed).ok().map(|text| text.len())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_libraries_seal_alike_and_open_what_the_other_sealed() {
        for key in [vec![3; 16], vec![4; 32]] {
            let keys = [Provider::AwsLc, Provider::Ring].map(|provider| GcmKey::new(provider, &key).unwrap());
            for len in [0, 1, 15, 16, 17, 255, 256, 1_180, 1_500] {
                let plain: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
                let sealed = keys.each_ref().map(|key| {
                    let mut text = plain.clone();
                    let tag = key.seal([9; 12], &[1, 2, 3], &mut text).unwrap();
                    text.extend(tag);
                    text
                });
                assert_eq!(sealed[0], sealed[1]);
                for key in &keys {
                    let mut text = sealed[0].clone();
                    assert_eq!(key.open([9; 12], &[1, 2, 3], &mut text), Some(plain.len()));
                    assert_eq!(text[..plain.len()], plain);
                    let mut text = sealed[0].clone();
                    assert_eq!(key.open([9; 12], &[1, 2, 4], &mut text), None);
                }
            }
        }
    }

    #[test]
    fn the_choice_is_made_once() {
        let provider = chosen();
        assert!(!choose(Provider::AwsLc) && !choose(Provider::Ring));
        assert_eq!(chosen(), provider);
    }
}
