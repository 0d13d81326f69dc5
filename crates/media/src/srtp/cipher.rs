//! Session keys and the transforms on one packet, for each profile.

use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;

use super::provider::{self, GcmKey, TAG_LEN as GCM_TAG_LEN};
use super::{OpenError, Profile};

const HMAC_TAG_LEN: usize = 10;
/// The bit of an SRTCP index word that says "encrypted"; we neither send nor take anything else.
const ENCRYPTED: u32 = 0x8000_0000;

/// Keys of one direction and kind, set up once.
pub(super) enum Cipher {
    Gcm { key: GcmKey, salt: [u8; 12] },
    CounterMode { key: Box<EncryptingKey>, authentication: Box<hmac::Key>, salt: [u8; 14] },
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cipher")
    }
}

impl Cipher {
    /// Derives the session keys (RFC 3711 §4.3.1; labels 0–2 for RTP, 3–5 for RTCP). AEAD profiles use the same function with their
    /// salt padded by zeros (RFC 7714 §11).
    pub(super) fn derive(profile: Profile, key: &[u8], salt: &[u8], rtcp: bool) -> Option<Self> {
        if key.len() != profile.key_len() || salt.len() != profile.salt_len() {
            return None;
        }
        let first = if rtcp { 3 } else { 0 };
        let mut session_key = vec![0; profile.key_len()];
        derive(key, salt, first, &mut session_key)?;
        let mut session_salt = [0; 14];
        derive(key, salt, first + 2, &mut session_salt[..profile.salt_len()])?;
        Some(match profile {
            Profile::AeadAes256Gcm | Profile::AeadAes128Gcm => {
                let key = GcmKey::new(provider::chosen(), &session_key)?;
                Self::Gcm { key, salt: *session_salt.first_chunk::<12>()? }
            }
            Profile::AesCm128HmacSha1 => {
                let mut authentication = [0; 20];
                derive(key, salt, first + 1, &mut authentication)?;
                let cipher = EncryptingKey::ctr(UnboundCipherKey::new(&AES_128, &session_key).ok()?).ok()?;
                Self::CounterMode {
                    key: Box::new(cipher),
                    authentication: Box::new(hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &authentication)),
                    salt: session_salt,
                }
            }
        })
    }

    pub(super) fn seal_rtp(
        &self,
        buffer: &mut [u8],
        len: usize,
        header: usize,
        ssrc: u32,
        index: u64,
    ) -> Option<usize> {
        match self {
            Self::Gcm { key, salt } => {
                let total = len + GCM_TAG_LEN;
                let (clear, rest) = buffer.get_mut(..total)?.split_at_mut(header);
                let (payload, tag) = rest.split_at_mut(len - header);
                let nonce = gcm_nonce(salt, ssrc, index);
                tag.copy_from_slice(&key.seal(nonce, clear, payload)?);
                Some(total)
            }
            Self::CounterMode { key, authentication, salt } => {
                let total = len + HMAC_TAG_LEN;
                let (packet, tag) = buffer.get_mut(..total)?.split_at_mut(len);
                counter_mode(key, counter_iv(salt, ssrc, index), &mut packet[header..])?;
                tag.copy_from_slice(&rtp_tag(authentication, packet, index).as_ref()[..HMAC_TAG_LEN]);
                Some(total)
            }
        }
    }

    pub(super) fn open_rtp(&self, packet: &mut [u8], header: usize, ssrc: u32, index: u64) -> Result<usize, OpenError> {
        match self {
            Self::Gcm { key, salt } => {
                let (clear, sealed) = packet.split_at_mut(header);
                if sealed.len() < GCM_TAG_LEN {
                    return Err(OpenError::Malformed);
                }
                let nonce = gcm_nonce(salt, ssrc, index);
                let opened = key.open(nonce, clear, sealed).ok_or(OpenError::Forged)?;
                Ok(header + opened)
            }
            Self::CounterMode { key, authentication, salt } => {
                let len =
                    packet.len().checked_sub(HMAC_TAG_LEN).filter(|len| *len >= header).ok_or(OpenError::Malformed)?;
                let (body, tag) = packet.split_at_mut(len);
                let expected = rtp_tag(authentication, body, index);
                aws_lc_rs::constant_time::verify_slices_are_equal(&expected.as_ref()[..HMAC_TAG_LEN], tag)
                    .map_err(|_| OpenError::Forged)?;
                counter_mode(key, counter_iv(salt, ssrc, index), &mut body[header..]).ok_or(OpenError::Malformed)?;
                Ok(len)
            }
        }
    }

    /// The index word of an SRTCP packet: last for AEAD (RFC 7714 §9.2), before the tag otherwise (RFC 3711 §3.4).
    pub(super) fn srtcp_index(&self, packet: &[u8]) -> Result<u32, OpenError> {
        let behind = match self {
            Self::Gcm { .. } => 4,
            Self::CounterMode { .. } => 4 + HMAC_TAG_LEN,
        };
        let at = packet.len().checked_sub(behind).filter(|at| *at >= 8).ok_or(OpenError::Malformed)?;
        let word = super::word(packet, at);
        if word & ENCRYPTED == 0 { Err(OpenError::Forged) } else { Ok(word & !ENCRYPTED) }
    }

    pub(super) fn seal_rtcp(&self, buffer: &mut [u8], len: usize, ssrc: u32, index: u32) -> Option<usize> {
        let word = (index | ENCRYPTED).to_be_bytes();
        match self {
            Self::Gcm { key, salt } => {
                let total = len + GCM_TAG_LEN + 4;
                let (clear, rest) = buffer.get_mut(..total)?.split_at_mut(8);
                let (payload, trailer) = rest.split_at_mut(len - 8);
                let nonce = gcm_rtcp_nonce(salt, ssrc, index);
                let tag = key.seal(nonce, &rtcp_aad(clear, word), payload)?;
                trailer[..GCM_TAG_LEN].copy_from_slice(&tag);
                trailer[GCM_TAG_LEN..].copy_from_slice(&word);
                Some(total)
            }
            Self::CounterMode { key, authentication, salt } => {
                let total = len + 4 + HMAC_TAG_LEN;
                let packet = buffer.get_mut(..total)?;
                counter_mode(key, counter_iv(salt, ssrc, u64::from(index)), &mut packet[8..len])?;
                packet[len..len + 4].copy_from_slice(&word);
                let tag = hmac::sign(authentication, &packet[..len + 4]);
                packet[len + 4..].copy_from_slice(&tag.as_ref()[..HMAC_TAG_LEN]);
                Some(total)
            }
        }
    }

    pub(super) fn open_rtcp(&self, packet: &mut [u8], ssrc: u32) -> Result<usize, OpenError> {
        let index = self.srtcp_index(packet)?;
        match self {
            Self::Gcm { key, salt } => {
                let end = packet.len() - 4;
                if end < 8 + GCM_TAG_LEN {
                    return Err(OpenError::Malformed);
                }
                let (clear, sealed) = packet[..end].split_at_mut(8);
                let aad = rtcp_aad(clear, (index | ENCRYPTED).to_be_bytes());
                let nonce = gcm_rtcp_nonce(salt, ssrc, index);
                let opened = key.open(nonce, &aad, sealed).ok_or(OpenError::Forged)?;
                Ok(8 + opened)
            }
            Self::CounterMode { key, authentication, salt } => {
                let signed = packet.len() - HMAC_TAG_LEN;
                let (body, tag) = packet.split_at_mut(signed);
                let expected = hmac::sign(authentication, body);
                aws_lc_rs::constant_time::verify_slices_are_equal(&expected.as_ref()[..HMAC_TAG_LEN], tag)
                    .map_err(|_| OpenError::Forged)?;
                let len = signed - 4;
                counter_mode(key, counter_iv(salt, ssrc, u64::from(index)), &mut body[8..len])
                    .ok_or(OpenError::Malformed)?;
                Ok(len)
            }
        }
    }
}

/// The key derivation function with rate 0: AES in counter mode over `salt XOR label`.
fn derive(key: &[u8], salt: &[u8], label: u8, out: &mut [u8]) -> Option<()> {
    let mut iv = [0u8; 16];
    iv[..salt.len()].copy_from_slice(salt);
    iv[7] ^= label;
    let algorithm = if key.len() == 32 { &AES_256 } else { &AES_128 };
    let cipher = EncryptingKey::ctr(UnboundCipherKey::new(algorithm, key).ok()?).ok()?;
    out.fill(0);
    counter_mode(&cipher, iv, out)
}

fn counter_mode(key: &EncryptingKey, iv: [u8; 16], bytes: &mut [u8]) -> Option<()> {
    key.less_safe_encrypt(bytes, EncryptionContext::Iv128(FixedLength::from(iv))).ok().map(|_| ())
}

/// RFC 3711 §4.1.1.
fn counter_iv(salt: &[u8; 14], ssrc: u32, index: u64) -> [u8; 16] {
    let mut iv = [0; 16];
    iv[..14].copy_from_slice(salt);
    for (byte, other) in iv[4..8].iter_mut().zip(ssrc.to_be_bytes()) {
        *byte ^= other;
    }
    for (byte, other) in iv[8..14].iter_mut().zip(&index.to_be_bytes()[2..]) {
        *byte ^= other;
    }
    iv
}

/// RFC 7714 §8.1: two zero bytes, SSRC, roll-over counter, sequence number, all XOR the salt.
fn gcm_nonce(salt: &[u8; 12], ssrc: u32, index: u64) -> [u8; 12] {
    let [a, b, c, d] = ssrc.to_be_bytes();
    let [_, _, e, f, g, h, i, j] = index.to_be_bytes();
    let numbers = [0, 0, a, b, c, d, e, f, g, h, i, j];
    std::array::from_fn(|at| salt[at] ^ numbers[at])
}

/// RFC 7714 §9.1: two zero bytes, SSRC, two zero bytes, index, all XOR the salt.
fn gcm_rtcp_nonce(salt: &[u8; 12], ssrc: u32, index: u32) -> [u8; 12] {
    gcm_nonce(salt, ssrc, u64::from(index))
}

/// RFC 7714 §9.3: the first 8 bytes and the index word.
fn rtcp_aad(clear: &[u8], word: [u8; 4]) -> [u8; 12] {
    let mut aad = [0; 12];
    aad[..8].copy_from_slice(&clear[..8]);
    aad[8..].copy_from_slice(&word);
    aad
}

/// RFC 3711 §4.2: over the packet and the roll-over counter.
fn rtp_tag(key: &hmac::Key, packet: &[u8], index: u64) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(packet);
    context.update(&index.to_be_bytes()[2..6]);
    context.sign()
}

#[cfg(test)]
mod tests {
    use super::provider::Provider;
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    /// RFC 3711 appendix B.3.
    #[test]
    fn session_keys_are_those_of_the_specification() {
        let (key, salt) = (hex("E1F97A0D3E018BE0D64FA32C06DE4139"), hex("0EC675AD498AFEEBB6960B3AABE6"));
        let mut cipher = [0; 16];
        derive(&key, &salt, 0, &mut cipher).unwrap();
        assert_eq!(cipher.to_vec(), hex("C61E7A93744F39EE10734AFE3FF7A087"));
        let mut session_salt = [0; 14];
        derive(&key, &salt, 2, &mut session_salt).unwrap();
        assert_eq!(session_salt.to_vec(), hex("30CBBC08863D8C85D49DB34A9AE1"));
        let mut authentication = [0; 20];
        derive(&key, &salt, 1, &mut authentication).unwrap();
        assert_eq!(authentication.to_vec(), hex("CEBE321F6FF7716B6FD4AB49AF256A156D38BAA4"));
    }

    /// RFC 3711 appendix B.2: the first key stream block.
    #[test]
    fn the_key_stream_is_that_of_the_specification() {
        let key =
            EncryptingKey::ctr(UnboundCipherKey::new(&AES_128, &hex("2B7E151628AED2A6ABF7158809CF4F3C")).unwrap())
                .unwrap();
        let salt: [u8; 14] = hex("F0F1F2F3F4F5F6F7F8F9FAFBFCFD").try_into().unwrap();
        let mut stream = [0; 16];
        counter_mode(&key, counter_iv(&salt, 0, 0), &mut stream).unwrap();
        assert_eq!(stream.to_vec(), hex("E03EAD0935C95E80E166B16DD92B4EB4"));
    }

    /// RFC 7714 §16 and §17: packets under session keys that are given.
    fn assert_gcm_vectors(key: &str, rtp: &str, rtcp: &str) {
        for provider in [Provider::AwsLc, Provider::Ring] {
            let key = GcmKey::new(provider, &hex(key)).unwrap();
            let cipher = Cipher::Gcm { key, salt: hex("517569642070726f2071756f").try_into().unwrap() };
            let mut packet = hex(
                "8040f17b8041f8d35501a0b247616c6c696120657374206f6d6e69732064697669736120696e207061727465732074726573",
            );
            let plain = packet.clone();
            packet.resize(plain.len() + GCM_TAG_LEN, 0);
            cipher.seal_rtp(&mut packet, plain.len(), 12, 0x5501_a0b2, 0xf17b).unwrap();
            assert_eq!(packet, hex(rtp), "{provider:?}");
            assert_eq!(cipher.open_rtp(&mut packet, 12, 0x5501_a0b2, 0xf17b), Ok(plain.len()));
            assert_eq!(packet[..plain.len()], plain);

            let mut compound = hex(
                "81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61deadbeefdeadbeefdeadbeefdeadbeefdeadbeef",
            );
            let plain = compound.clone();
            compound.resize(plain.len() + GCM_TAG_LEN + 4, 0);
            cipher.seal_rtcp(&mut compound, plain.len(), 0x4d61_7273, 0x5d4).unwrap();
            assert_eq!(compound, hex(rtcp), "{provider:?}");
            assert_eq!(cipher.open_rtcp(&mut compound, 0x4d61_7273), Ok(plain.len()));
            assert_eq!(compound[..plain.len()], plain);
        }
    }

    /// RFC 7714 §16.1.1 and §17.1.
    #[test]
    fn packets_under_128_bits_are_those_of_the_specification() {
        assert_gcm_vectors(
            "000102030405060708090a0b0c0d0e0f",
            "8040f17b8041f8d35501a0b2f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833\
             899d7f27beb16a9152cf765ee4390cce",
            "81c8000d4d61727363e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1730d6fda4ce09b4686303ded0bb9\
             275bc84aa45896cf4d2fc5abf87245d9eade800005d4",
        );
    }

    /// RFC 7714 §16.2.1 and §17.3.
    #[test]
    fn packets_under_256_bits_are_those_of_the_specification() {
        assert_gcm_vectors(
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
            "8040f17b8041f8d35501a0b232b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae0f1ba63799b87b\
             7aa3db36dfffd6b0f9bb7878d7a76c13",
            "81c8000d4d617273d50ae4d1f5ce5d304ba297e47d470c282c3ece5dbffe0a50a2eaa5c1110555be8415f658c61de0476f1b\
             6fad1d1eb30c4446839f57ff6f6cb26ac3be800005d4",
        );
    }
}
