//! What stands in the header extensions of the profile.

use std::time::Duration;

/// RFC 6464: whether the sender's voice detector fired, and the level as 0 (loudest) to 127 (silence), in −dBov.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AudioLevel {
    /// Voice activity.
    pub voice: bool,
    /// −dBov.
    pub level: u8,
}

impl AudioLevel {
    /// Level of digital silence.
    pub const SILENCE: u8 = 127;

    /// Reads the extension's data.
    pub fn parse(data: &[u8]) -> Option<Self> {
        data.first().map(|byte| Self { voice: byte & 0x80 != 0, level: byte & 0x7f })
    }

    /// Writes it.
    pub fn to_byte(self) -> u8 {
        (u8::from(self.voice) << 7) | (self.level & 0x7f)
    }
}

/// The transport-wide sequence number.
pub fn parse_transport_cc(data: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes([*data.first()?, *data.get(1)?]))
}

/// Absolute send time: seconds modulo 64 in 6.18 fixed point, of any steady clock.
pub fn abs_send_time(since_start: Duration) -> [u8; 3] {
    // 64 s wrap before the multiplication, so that it cannot overflow.
    let micros = since_start.as_micros() % 64_000_000;
    let fixed = (micros << 18) / 1_000_000;
    let bytes = u32::try_from(fixed & 0x00ff_ffff).unwrap_or(0).to_be_bytes();
    [bytes[1], bytes[2], bytes[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_send_time_wraps_after_64_seconds() {
        assert_eq!(abs_send_time(Duration::from_secs(1)), [0x04, 0, 0]);
        assert_eq!(abs_send_time(Duration::from_secs(65)), [0x04, 0, 0]);
        assert_eq!(abs_send_time(Duration::from_millis(500)), [0x02, 0, 0]);
    }

    #[test]
    fn levels_survive_their_byte() {
        let level = AudioLevel { voice: true, level: 42 };
        assert_eq!(AudioLevel::parse(&[level.to_byte()]), Some(level));
    }
}
