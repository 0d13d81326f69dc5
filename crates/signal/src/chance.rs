//! Random names and seeds from the operating system.

/// 32 unpredictable bytes.
pub(crate) fn seed() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the operating system has a generator of random numbers");
    bytes
}

/// A lower-case version 4 UUID: the user name of an anonymous session. Its first eight digits become the endpoint's id.
pub(crate) fn uuid() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system has a generator of random numbers");
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// `len` characters that clients and URLs carry without encoding.
pub(crate) fn token(len: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bytes = vec![0; len];
    getrandom::fill(&mut bytes).expect("the operating system has a generator of random numbers");
    bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 63)])).collect()
}
