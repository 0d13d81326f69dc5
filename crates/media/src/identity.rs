//! What every transport of this process shares: the certificate, the DTLS settings, the generator of secrets.

use std::sync::Arc;
use std::time::Duration;

use dimpl::DtlsCertificate;
use tertulia_model::{DtlsSetup, Fingerprint, HashFunction, IceCredentials};

/// First retransmission of a handshake flight. Browsers use 50 ms; the default of 1 s costs seconds on a bad network.
const FLIGHT_RTO: Duration = Duration::from_millis(120);
const FLIGHT_RETRIES: usize = 8;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// Keeps handshake datagrams below any path's MTU.
const MTU: usize = 1150;

/// The bridge's (or a client's) certificate and settings. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    pub(crate) certificate: DtlsCertificate,
    pub(crate) config: Arc<dimpl::Config>,
    digest: Vec<u8>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

/// The cryptographic library could not make a certificate.
#[derive(Debug)]
pub struct NoIdentity;

impl Identity {
    /// Makes a self-signed ECDSA certificate.
    ///
    /// # Errors
    /// When the system's generator fails.
    pub fn generate() -> Result<Self, NoIdentity> {
        let certificate = dimpl::certificate::generate_self_signed_certificate().map_err(|_| NoIdentity)?;
        let config = dimpl::Config::builder()
            .mtu(MTU)
            // Only addresses that ICE has proven get this far: a cookie would prove nothing more and cost a round trip.
            .use_server_cookie(false)
            .flight_start_rto(FLIGHT_RTO)
            .flight_retries(FLIGHT_RETRIES)
            .handshake_timeout(HANDSHAKE_TIMEOUT)
            .build()
            .map_err(|_| NoIdentity)?;
        let digest = certificate.fingerprint();
        Ok(Self { certificate, config: Arc::new(config), digest })
    }

    /// The certificate's fingerprint, SHA-256.
    pub fn fingerprint(&self, setup: DtlsSetup) -> Fingerprint {
        Fingerprint { hash: HashFunction::Sha256, digest: self.digest.clone(), setup }
    }
}

/// Fresh ICE credentials from the operating system's generator: 8 and 24 characters.
pub fn ice_credentials() -> IceCredentials {
    IceCredentials { ufrag: secret(8), pwd: secret(24) }
}

/// Fresh ICE credentials whose user fragment names a worker in its first two characters: whoever accepts a connection needs no table.
pub(crate) fn ice_credentials_of(worker: usize) -> IceCredentials {
    let digit = |number: usize| char::from(DIGITS[number % DIGITS.len()]);
    let place = String::from_iter([digit(worker / DIGITS.len()), digit(worker)]);
    let IceCredentials { ufrag, pwd } = ice_credentials();
    IceCredentials { ufrag: place + &ufrag, pwd }
}

/// The worker that a user fragment of ours names; anything may come back for one that is not ours.
pub(crate) fn worker_of(ufrag: &str) -> Option<usize> {
    let &[high, low] = ufrag.as_bytes().first_chunk()?;
    let value = |byte: u8| DIGITS.iter().position(|digit| *digit == byte);
    Some(value(high)? * DIGITS.len() + value(low)?)
}

/// All that a user fragment may have (RFC 8839 §5.4). Two of them name 4096 workers.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// `len` random letters and digits, which both ICE and URLs allow. Two letters come twice as often: 5.95 bits each.
pub(crate) fn secret(len: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789AB";
    let mut bytes = vec![0; len];
    aws_lc_rs::rand::fill(&mut bytes).expect(GENERATOR);
    bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 63)])).collect()
}

/// A random number for things that must not be guessed.
pub(crate) fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect(GENERATOR);
    u64::from_be_bytes(bytes)
}

/// Without random numbers nothing here is safe: better to stop.
const GENERATOR: &str = "the operating system has a generator of random numbers";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_fragment_names_its_worker() {
        for worker in [0, 1, 63, 64, 4_095] {
            assert_eq!(worker_of(&ice_credentials_of(worker).ufrag), Some(worker));
        }
        assert_eq!((worker_of("A"), worker_of("A:"), worker_of("\u{e9}x")), (None, None, None));
    }
}
