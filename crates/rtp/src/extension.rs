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

/// The mandatory fields of a dependency descriptor (AV1 RTP payload specification, A.8.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DependencyDescriptor {
    /// First packet of a frame.
    pub start_of_frame: bool,
    /// Last packet of a frame.
    pub end_of_frame: bool,
    /// Modulo 2¹⁶.
    pub frame_number: u16,
    /// Carries the template structure, which only key frames do.
    pub has_structure: bool,
}

impl DependencyDescriptor {
    /// Reads the mandatory fields and the flag behind them. Choosing layers needs the templates too; that is not read here.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let fixed = data.get(..3)?;
        Some(Self {
            start_of_frame: fixed[0] & 0x80 != 0,
            end_of_frame: fixed[0] & 0x40 != 0,
            frame_number: u16::from_be_bytes([fixed[1], fixed[2]]),
            has_structure: data.get(3).is_some_and(|flags| flags & 0x80 != 0),
        })
    }
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
