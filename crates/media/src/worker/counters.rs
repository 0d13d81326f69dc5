//! What a worker counts, and how much it holds.

/// What happened to datagrams and handshakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Datagrams received.
    pub datagrams: u64,
    /// First byte of no protocol of ours, or empty.
    pub dropped_unknown_protocol: u64,
    /// From an address that has not passed a check, and no check itself.
    pub dropped_unknown_address: u64,
    /// Checks for nobody here.
    pub dropped_unknown_user: u64,
    /// SRTP seen before or too old.
    pub dropped_replayed: u64,
    /// SRTP that does not authenticate, or before keys.
    pub dropped_forged: u64,
    /// SRTP that is none.
    pub dropped_malformed: u64,
    /// Handshakes that ended well under AES-256-GCM.
    pub connected_aead_256: u64,
    /// Under AES-128-GCM.
    pub connected_aead_128: u64,
    /// Under AES-CM with HMAC-SHA1.
    pub connected_sha1: u64,
    /// Wrong certificates.
    pub failed_certificate: u64,
    /// Handshakes without a common SRTP profile.
    pub failed_profile: u64,
    /// Other failures of handshakes.
    pub failed_handshake: u64,
    /// Data channels beyond the one that an endpoint may have.
    pub channels_refused: u64,
    /// Conferences lost to a defect of ours.
    pub panics: u64,
    /// Packets copied to other workers.
    pub copied: u64,
    /// Packets lost because there was no room on the way to another worker.
    pub uncopied: u64,
}

impl std::ops::AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        let Self {
            datagrams,
            dropped_unknown_protocol,
            dropped_unknown_address,
            dropped_unknown_user,
            dropped_replayed,
            dropped_forged,
            dropped_malformed,
            connected_aead_256,
            connected_aead_128,
            connected_sha1,
            failed_certificate,
            failed_profile,
            failed_handshake,
            channels_refused,
            panics,
            copied,
            uncopied,
        } = other;
        self.datagrams += datagrams;
        self.dropped_unknown_protocol += dropped_unknown_protocol;
        self.dropped_unknown_address += dropped_unknown_address;
        self.dropped_unknown_user += dropped_unknown_user;
        self.dropped_replayed += dropped_replayed;
        self.dropped_forged += dropped_forged;
        self.dropped_malformed += dropped_malformed;
        self.connected_aead_256 += connected_aead_256;
        self.connected_aead_128 += connected_aead_128;
        self.connected_sha1 += connected_sha1;
        self.failed_certificate += failed_certificate;
        self.failed_profile += failed_profile;
        self.failed_handshake += failed_handshake;
        self.channels_refused += channels_refused;
        self.panics += panics;
        self.copied += copied;
        self.uncopied += uncopied;
    }
}

/// How much state a worker holds: for whoever looks for leaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// Open conferences.
    pub conferences: usize,
    /// Endpoints, each with a transport.
    pub endpoints: usize,
    /// Addresses that are some endpoint's.
    pub addresses: usize,
    /// User fragments that are some endpoint's.
    pub user_fragments: usize,
    /// Deadlines.
    pub timers: usize,
}
