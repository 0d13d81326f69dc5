//! SRTP and SRTCP (RFC 3711, RFC 7714): one context per direction, in place, no allocation per packet.

mod cipher;
pub mod provider;
mod window;

use rustc_hash::FxHashMap;
use tertulia_rtp::packet::header_len;

use cipher::Cipher;
use window::Window;

/// Streams of a participant that are remembered: signalling allows 20 sources at once, and RTX comes on top. Who shares a screen again and
/// again has new ones each time: then those that were silent for longest are forgotten.
pub const STREAMS_OF_ONE: usize = 128;
/// Streams of a bridge that are remembered: everybody's in a large room, and RTX.
pub const STREAMS_OF_ROOM: usize = 4096;
/// Bytes that sealing adds at most: an SRTCP packet's index and tag.
pub const OVERHEAD_MAX: usize = 20;

/// A protection profile, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// RFC 7714.
    AeadAes256Gcm,
    /// RFC 7714.
    AeadAes128Gcm,
    /// RFC 3711: 80 bits of HMAC-SHA1.
    AesCm128HmacSha1,
}

impl Profile {
    /// Bytes of a master key.
    pub fn key_len(self) -> usize {
        match self {
            Self::AeadAes256Gcm => 32,
            Self::AeadAes128Gcm | Self::AesCm128HmacSha1 => 16,
        }
    }

    /// Bytes of a master salt.
    pub fn salt_len(self) -> usize {
        match self {
            Self::AeadAes256Gcm | Self::AeadAes128Gcm => 12,
            Self::AesCm128HmacSha1 => 14,
        }
    }
}

/// Why a packet is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// Too short, or not RTP.
    Malformed,
    /// Seen before, or too old to know.
    Replayed,
    /// The tag is not right.
    Forged,
}

/// Opens what a peer sealed.
#[derive(Debug)]
pub struct Inbound {
    rtp: Cipher,
    rtcp: Cipher,
    rtp_streams: Known,
    rtcp_streams: Known,
}

/// The streams of a peer, of one kind.
#[derive(Debug)]
struct Known {
    streams: FxHashMap<u32, Heard>,
    max: usize,
    /// Packets of all of them.
    packets: u64,
}

/// One of them, and which of all packets was its last.
#[derive(Debug)]
struct Heard {
    window: Window,
    last: u64,
}

impl Inbound {
    /// A context from the peer's half of the keying material, which remembers so many streams: the roll-overs of the others are lost.
    /// `None` when the lengths are not the profile's.
    pub fn new(profile: Profile, key: &[u8], salt: &[u8], streams_max: usize) -> Option<Self> {
        Some(Self {
            rtp: Cipher::derive(profile, key, salt, false)?,
            rtcp: Cipher::derive(profile, key, salt, true)?,
            rtp_streams: Known::new(streams_max),
            rtcp_streams: Known::new(streams_max),
        })
    }

    /// Opens an SRTP packet in place; returns the length of the RTP packet.
    ///
    /// # Errors
    /// When it is not to be used; the buffer's content is then undefined.
    pub fn open_rtp(&mut self, packet: &mut [u8]) -> Result<usize, OpenError> {
        let header = header_len(packet).ok_or(OpenError::Malformed)?;
        let sequence = u16::from_be_bytes([packet[2], packet[3]]);
        let ssrc = word(packet, 8);
        let window = self.rtp_streams.window(ssrc);
        let index = window.map_or(u64::from(sequence), |window| window.estimate(sequence));
        if window.is_some_and(|window| !window.is_new(index)) {
            return Err(OpenError::Replayed);
        }
        let len = self.rtp.open_rtp(packet, header, ssrc, index)?;
        self.rtp_streams.accept(ssrc, index);
        Ok(len)
    }

    /// Opens an SRTCP packet in place; returns the length of the RTCP compound.
    ///
    /// # Errors
    /// When it is not to be used; the buffer's content is then undefined.
    pub fn open_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, OpenError> {
        if packet.len() < 8 {
            return Err(OpenError::Malformed);
        }
        let ssrc = word(packet, 4);
        let index = self.rtcp.srtcp_index(packet)?;
        if self.rtcp_streams.window(ssrc).is_some_and(|window| !window.is_new(u64::from(index))) {
            return Err(OpenError::Replayed);
        }
        let len = self.rtcp.open_rtcp(packet, ssrc)?;
        self.rtcp_streams.accept(ssrc, u64::from(index));
        Ok(len)
    }
}

impl Known {
    fn new(max: usize) -> Self {
        Self { streams: FxHashMap::default(), max, packets: 0 }
    }

    fn window(&self, ssrc: u32) -> Option<&Window> {
        self.streams.get(&ssrc).map(|heard| &heard.window)
    }

    /// Marks an index as used. Only packets that authenticate come so far: nobody without the key makes us remember or forget anything.
    fn accept(&mut self, ssrc: u32, index: u64) {
        self.packets += 1;
        if self.streams.len() >= self.max && !self.streams.contains_key(&ssrc) {
            let oldest = self.streams.iter().min_by_key(|(_, heard)| heard.last).map(|(ssrc, _)| *ssrc);
            self.streams.retain(|ssrc, _| Some(*ssrc) != oldest);
        }
        let heard = self.streams.entry(ssrc).or_insert_with(|| Heard { window: Window::of_peer(), last: 0 });
        heard.window.accept(index);
        heard.last = self.packets;
    }
}

/// Seals what we send. It refuses to seal one index twice: that would give the key away (RFC 7714 §8.4).
#[derive(Debug)]
pub struct Outbound {
    rtp: Cipher,
    rtcp: Cipher,
    streams: FxHashMap<u32, Window>,
    rtcp_index: u32,
}

impl Outbound {
    /// A context from our half of the keying material. `None` when the lengths are not the profile's.
    pub fn new(profile: Profile, key: &[u8], salt: &[u8]) -> Option<Self> {
        Some(Self {
            rtp: Cipher::derive(profile, key, salt, false)?,
            rtcp: Cipher::derive(profile, key, salt, true)?,
            streams: FxHashMap::default(),
            rtcp_index: 0,
        })
    }

    /// Seals the RTP packet in `buffer[..len]`; returns the length on the wire. `None` when it does not fit, is not RTP, or its number
    /// was used before.
    pub fn seal_rtp(&mut self, buffer: &mut [u8], len: usize) -> Option<usize> {
        let header = header_len(buffer.get(..len)?)?;
        let sequence = u16::from_be_bytes([buffer[2], buffer[3]]);
        let ssrc = word(buffer, 8);
        let window = self.streams.entry(ssrc).or_default();
        let index = window.estimate(sequence);
        if !window.is_new(index) {
            return None;
        }
        window.accept(index);
        self.rtp.seal_rtp(buffer, len, header, ssrc, index)
    }

    /// Seals the RTCP compound in `buffer[..len]`; returns the length on the wire.
    pub fn seal_rtcp(&mut self, buffer: &mut [u8], len: usize) -> Option<usize> {
        if len < 8 || self.rtcp_index >= 0x7fff_ffff {
            return None;
        }
        self.rtcp_index += 1;
        let ssrc = word(buffer, 4);
        self.rtcp.seal_rtcp(buffer, len, ssrc, self.rtcp_index)
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILES: [Profile; 3] = [Profile::AeadAes256Gcm, Profile::AeadAes128Gcm, Profile::AesCm128HmacSha1];

    fn pair(profile: Profile) -> (Outbound, Inbound) {
        let (key, salt) = (vec![7; profile.key_len()], vec![9; profile.salt_len()]);
        (Outbound::new(profile, &key, &salt).unwrap(), Inbound::new(profile, &key, &salt, STREAMS_OF_ONE).unwrap())
    }

    fn rtp(sequence: u16) -> Vec<u8> {
        let mut packet = vec![0x80, 100, 0, 0, 0, 0, 0, 1, 0, 0, 0, 5];
        packet[2..4].copy_from_slice(&sequence.to_be_bytes());
        packet.extend_from_slice(b"payload of some length");
        packet
    }

    fn seal(out: &mut Outbound, packet: &[u8]) -> Vec<u8> {
        let mut buffer = packet.to_vec();
        buffer.resize(packet.len() + OVERHEAD_MAX, 0);
        let len = out.seal_rtp(&mut buffer, packet.len()).unwrap();
        buffer.truncate(len);
        buffer
    }

    #[test]
    fn what_is_sealed_opens_once_in_any_order_and_over_the_roll_over() {
        for profile in PROFILES {
            let (mut out, mut inbound) = pair(profile);
            let sent: Vec<Vec<u8>> = (65_530..65_536u32).chain(0..6).map(|n| rtp(u16::try_from(n).unwrap())).collect();
            let mut sealed: Vec<Vec<u8>> = sent.iter().map(|packet| seal(&mut out, packet)).collect();
            sealed.swap(4, 8);
            for (n, bytes) in sealed.iter().enumerate() {
                let mut copy = bytes.clone();
                let len = inbound.open_rtp(&mut copy).unwrap_or_else(|e| panic!("{profile:?} {n}: {e:?}"));
                assert!(sent.contains(&copy[..len].to_vec()));
                assert_eq!(inbound.open_rtp(&mut bytes.clone()), Err(OpenError::Replayed));
            }
        }
    }

    #[test]
    fn a_changed_bit_anywhere_is_noticed() {
        for profile in PROFILES {
            let (mut out, mut inbound) = pair(profile);
            let sealed = seal(&mut out, &rtp(7));
            for at in 0..sealed.len() {
                let mut copy = sealed.clone();
                copy[at] ^= 0x01;
                assert!(inbound.open_rtp(&mut copy).is_err(), "{profile:?} {at}");
            }
            assert!(inbound.open_rtp(&mut sealed.clone()).is_ok(), "forgeries changed nothing");
        }
    }

    #[test]
    fn control_packets_open_once_and_not_when_changed() {
        for profile in PROFILES {
            let (mut out, mut inbound) = pair(profile);
            let compound = [0x81u8, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2];
            let mut buffer = [0u8; 12 + OVERHEAD_MAX];
            buffer[..12].copy_from_slice(&compound);
            let len = out.seal_rtcp(&mut buffer, 12).unwrap();
            for at in 0..len {
                let mut copy = buffer;
                copy[at] ^= 0x80;
                assert!(inbound.open_rtcp(&mut copy[..len]).is_err(), "{profile:?} {at}");
            }
            let mut copy = buffer;
            assert_eq!(inbound.open_rtcp(&mut copy[..len]), Ok(12));
            assert_eq!(copy[..12], compound);
            assert_eq!(inbound.open_rtcp(&mut buffer[..len]), Err(OpenError::Replayed));
        }
    }

    #[test]
    fn one_number_is_never_sealed_twice() {
        let (mut out, _) = pair(Profile::AeadAes128Gcm);
        seal(&mut out, &rtp(7));
        let mut buffer = rtp(7);
        let len = buffer.len();
        buffer.resize(len + OVERHEAD_MAX, 0);
        assert_eq!(out.seal_rtp(&mut buffer, len), None);
    }

    #[test]
    fn who_shares_a_screen_a_hundred_times_is_seen_each_time() {
        let (mut out, mut inbound) = pair(Profile::AeadAes128Gcm);
        let mut send = |ssrc: u32, sequence: u16| {
            let mut packet = rtp(sequence);
            packet[8..12].copy_from_slice(&ssrc.to_be_bytes());
            let mut sealed = seal(&mut out, &packet);
            (inbound.open_rtp(&mut sealed.clone()).map(|_| ()), inbound.open_rtp(&mut sealed))
        };
        for share in 0..600u16 {
            let voice = send(1, share.wrapping_add(65_000));
            assert_eq!(voice, (Ok(()), Err(OpenError::Replayed)), "{share}: its roll-over is not forgotten");
            assert_eq!(send(100 + u32::from(share), 9), (Ok(()), Err(OpenError::Replayed)), "{share}");
        }
        assert_eq!(inbound.rtp_streams.streams.len(), STREAMS_OF_ONE);
    }

    #[test]
    fn truncated_packets_are_refused() {
        for profile in PROFILES {
            let (mut out, mut inbound) = pair(profile);
            let sealed = seal(&mut out, &rtp(7));
            for len in 0..sealed.len() {
                assert!(inbound.open_rtp(&mut sealed[..len].to_vec()).is_err());
                assert!(inbound.open_rtcp(&mut sealed[..len].to_vec()).is_err());
            }
        }
    }
}
