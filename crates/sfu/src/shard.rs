//! What crosses between the shards of one conference: who they are, what they tell each other, and the packets they
//! copy.
//!
//! Packets cross as bytes, because the way between two workers is a ring of bytes; everything else crosses as values.

use std::sync::Arc;
use std::time::Instant;

use tertulia_model::{ConferenceId, EndpointId, SourceName, SourceSet, VideoType};
use tertulia_rtp::extension::AudioLevel;
use tertulia_rtp::rtcp::SenderInfo;
use tertulia_rtp::sequence::SeqNo;

use crate::allocation::Layer;
use crate::subscription::ENCODINGS_MAX;

/// The longest frame: a packet of 1500 bytes, its descriptor and what is written before them.
pub const FRAME_MAX: usize = 2048;

const MEDIA: u8 = 1;
const REPORT: u8 = 2;
/// Bytes before the descriptor of a media frame.
const MEDIA_HEAD: usize = 8 + 1 + 4 + 8 + 4 + 1 + 1 + 1 + 1;
const REPORT_LEN: usize = 8 + 1 + 4 + 8 + 4 + 4 + 4;
/// Bits of a media frame's flags.
const MARKER: u8 = 1;
const HAS_LEVEL: u8 = 2;

/// One of the workers that share a conference, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Shard(u8);

impl Shard {
    /// Most shards of a conference.
    pub const MAX: usize = 64;

    /// The shard of a worker; `None` for workers that cannot share.
    pub fn new(worker: usize) -> Option<Self> {
        u8::try_from(worker).ok().filter(|_| worker < Self::MAX).map(Self)
    }

    /// The worker's number.
    pub fn worker(self) -> usize {
        usize::from(self.0)
    }
}

/// Some shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shards(u64);

impl Shards {
    /// Just this one.
    pub fn only(shard: Shard) -> Self {
        Self(1 << shard.0)
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether it is one of them.
    pub fn contains(self, shard: Shard) -> bool {
        self.0 & (1 << shard.0) != 0
    }

    /// Those of either.
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are not among the others.
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// How many.
    pub fn len(self) -> u64 {
        u64::from(self.0.count_ones())
    }

    /// Each, lowest number first.
    pub fn iter(self) -> impl Iterator<Item = Shard> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let shard = u8::try_from(left.trailing_zeros()).ok().filter(|_| left != 0)?;
            left &= left - 1;
            Some(Shard(shard))
        })
    }
}

/// Something that one shard tells others. Those who carry it need not know what.
#[derive(Debug, Clone)]
pub struct Message(pub(crate) Told);

/// What is told. Sources are named by their first SSRC, which is unique in a conference.
#[derive(Debug, Clone)]
pub(crate) enum Told {
    /// What the sender said of its endpoints is void; it says everything anew.
    Anew,
    Joined {
        id: EndpointId,
    },
    Left {
        id: EndpointId,
    },
    Sources {
        id: EndpointId,
        set: Arc<SourceSet>,
    },
    VideoType {
        id: EndpointId,
        source: Option<SourceName>,
        video_type: VideoType,
    },
    /// What receivers may get of a source, by its owner: other shards do not see what is not copied to them.
    Layers {
        ssrc: u32,
        layers: Vec<Layer>,
    },
    /// What a shard wants of a source of another: lines as in constraints, and one bit for each encoding to be copied.
    Wanted {
        ssrc: u32,
        max_height: i32,
        encodings: u8,
    },
    /// Key frames that a shard needs, one bit for each encoding.
    Keyframes {
        ssrc: u32,
        to_start: u8,
        to_switch: u8,
        after_loss: u8,
    },
    /// Who spoke, most recent first; the first is the dominant speaker. Only the home shard says so.
    Speakers {
        recent: Vec<EndpointId>,
    },
    /// A text for the bridge channels of an endpoint, or of all.
    Text {
        to: Option<String>,
        text: Arc<str>,
    },
    /// A text for those who want statistics of an endpoint.
    Stats {
        from: EndpointId,
        text: Arc<str>,
    },
}

/// What a source has to do with other shards.
#[derive(Debug, Default)]
pub(crate) struct Crossing {
    /// The shard of its owner, when that is another.
    pub(crate) from: Option<Shard>,
    /// Who wants copies, by encoding. Of sound: who wants it although it is not among the loudest.
    pub(crate) copies: [Shards; ENCODINGS_MAX],
    /// What other shards want, in lines as in constraints; what is missing is 0.
    pub(crate) heights: Vec<(Shard, i32)>,
    /// What the owner's shard was told last.
    pub(crate) told: (i32, u8),
    /// Which layers the others were told last, by what tells sets of layers apart, and when.
    pub(crate) layers_told: Option<(u64, Instant)>,
}

impl Crossing {
    /// Notes what another shard wants.
    pub(crate) fn want(&mut self, shard: Shard, max_height: i32, encodings: u8) {
        self.heights.retain(|(known, _)| *known != shard);
        if max_height != 0 {
            self.heights.push((shard, max_height));
        }
        for (encoding, copies) in self.copies.iter_mut().enumerate() {
            *copies = copies.without(Shards::only(shard));
            if encodings & (1 << encoding) != 0 {
                *copies = copies.with(Shards::only(shard));
            }
        }
    }
}

/// A packet on its way to another shard: decrypted, unwrapped, numbered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Media<'a> {
    pub(crate) ssrc: u32,
    /// Among the packets of its encoding that are forwarded.
    pub(crate) number: SeqNo,
    pub(crate) timestamp: u32,
    pub(crate) payload_type: u8,
    pub(crate) marker: bool,
    pub(crate) level: Option<AudioLevel>,
    /// Dependency descriptor; empty when there is none.
    pub(crate) descriptor: &'a [u8],
    /// Empty when only the level is of interest.
    pub(crate) payload: &'a [u8],
}

/// What can be in a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Frame<'a> {
    Media(Media<'a>),
    Report(SenderInfo),
}

/// The conference that a frame belongs to.
pub fn conference_of(frame: &[u8]) -> Option<ConferenceId> {
    frame.first_chunk().map(|id| ConferenceId(u64::from_be_bytes(*id)))
}

impl<'a> Frame<'a> {
    /// Writes it into a buffer of [`FRAME_MAX`] bytes; `None` when it does not fit.
    pub(crate) fn write(&self, conference: ConferenceId, buffer: &mut [u8]) -> Option<usize> {
        let mut writer = Cursor { buffer, at: 0 };
        writer.put(&conference.0.to_be_bytes())?;
        match self {
            Self::Media(media) => {
                let level = media.level.map_or(0, AudioLevel::to_byte);
                let flags = (u8::from(media.marker) * MARKER) | (u8::from(media.level.is_some()) * HAS_LEVEL);
                writer.put(&[MEDIA])?;
                writer.put(&media.ssrc.to_be_bytes())?;
                writer.put(&media.number.to_be_bytes())?;
                writer.put(&media.timestamp.to_be_bytes())?;
                writer.put(&[media.payload_type, flags, level, u8::try_from(media.descriptor.len()).ok()?])?;
                writer.put(media.descriptor)?;
                writer.put(media.payload)?;
            }
            Self::Report(info) => {
                writer.put(&[REPORT])?;
                writer.put(&info.ssrc.to_be_bytes())?;
                writer.put(&info.ntp.to_be_bytes())?;
                for field in [info.rtp_timestamp, info.packets, info.octets] {
                    writer.put(&field.to_be_bytes())?;
                }
            }
        }
        Some(writer.at)
    }

    /// Reads what [`Frame::write`] wrote.
    pub(crate) fn parse(frame: &'a [u8]) -> Option<Self> {
        let long = |at: usize| frame.get(at..at + 8)?.first_chunk().map(|b| u64::from_be_bytes(*b));
        let int = |at: usize| frame.get(at..at + 4)?.first_chunk().map(|b| u32::from_be_bytes(*b));
        match *frame.get(8)? {
            MEDIA => {
                let [payload_type, flags, level, descriptor_len] = *frame.get(25..MEDIA_HEAD)?.first_chunk()?;
                let (descriptor, payload) = frame.get(MEDIA_HEAD..)?.split_at_checked(usize::from(descriptor_len))?;
                Some(Self::Media(Media {
                    ssrc: int(9)?,
                    number: long(13)?,
                    timestamp: int(21)?,
                    payload_type,
                    marker: flags & MARKER != 0,
                    level: if flags & HAS_LEVEL != 0 { AudioLevel::parse(&[level]) } else { None },
                    descriptor,
                    payload,
                }))
            }
            REPORT if frame.len() == REPORT_LEN => Some(Self::Report(SenderInfo {
                ssrc: int(9)?,
                ntp: long(13)?,
                rtp_timestamp: int(21)?,
                packets: int(25)?,
                octets: int(29)?,
            })),
            _ => None,
        }
    }
}

struct Cursor<'a> {
    buffer: &'a mut [u8],
    at: usize,
}

impl Cursor<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.at + bytes.len();
        self.buffer.get_mut(self.at..end)?.copy_from_slice(bytes);
        self.at = end;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_were_written() {
        let media = Media {
            ssrc: 7,
            number: (1 << 40) + 3,
            timestamp: 90_000,
            payload_type: 100,
            marker: true,
            level: AudioLevel::parse(&[0x85]),
            descriptor: &[1, 2, 3],
            payload: &[9; 1_200],
        };
        let silent = Media { marker: false, level: None, descriptor: &[], payload: &[], ..media };
        let report = SenderInfo { ssrc: 1, ntp: u64::MAX, rtp_timestamp: 2, packets: 3, octets: 4 };
        for frame in [Frame::Media(media), Frame::Media(silent), Frame::Report(report)] {
            let mut buffer = [0; FRAME_MAX];
            let len = frame.write(ConferenceId(5), &mut buffer).unwrap();
            assert_eq!(conference_of(&buffer[..len]), Some(ConferenceId(5)));
            assert_eq!(Frame::parse(&buffer[..len]), Some(frame));
        }
        let huge = Frame::Media(Media { payload: &[0; FRAME_MAX], ..media });
        assert_eq!(huge.write(ConferenceId(5), &mut [0; FRAME_MAX]), None);
        assert_eq!(Frame::parse(&[0; 40]), None);
    }

    #[test]
    fn a_shard_that_wants_nothing_more_leaves_no_trace() {
        let (one, two) = (Shard::new(1).unwrap(), Shard::new(63).unwrap());
        let mut crossing = Crossing::default();
        crossing.want(one, 180, 0b1);
        crossing.want(two, -1, 0b101);
        assert_eq!(crossing.copies[0].iter().collect::<Vec<_>>(), [one, two]);
        assert_eq!(crossing.copies[2].iter().collect::<Vec<_>>(), [two]);
        crossing.want(one, 0, 0);
        crossing.want(two, 0, 0);
        assert!(crossing.heights.is_empty() && crossing.copies.iter().all(|copies| copies.is_empty()));
        assert_eq!(Shard::new(64), None);
    }
}
