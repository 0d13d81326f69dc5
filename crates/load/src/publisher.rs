//! What a client sends: pictures, sound, and pictures again.

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use tertulia_media::transport::Transport;
use tertulia_rtp::packet::{Header, write_header};
use tertulia_rtp::rtcp::Rtcp;

use crate::camera::{Camera, FRAME_INTERVAL, Picture, Voice};
use crate::client::Mode;
use crate::payload::{self, Stamp};
use crate::random::Random;
use crate::sources::{Slot, owner, ssrc};
use crate::tally::Tally;
use crate::way::Way;

/// Ids and payload types of every offer (`tertulia_model::profile`).
const AUDIO_LEVEL_ID: u8 = 1;
pub(crate) const TRANSPORT_CC_ID: u8 = 5;
pub(crate) const VP8: u8 = 100;
pub(crate) const VP8_RTX: u8 = 96;
pub(crate) const OPUS: u8 = 111;
/// −dBov of speech and of silence (RFC 6464).
const SPEECH_LEVEL: u8 = 25 | 0x80;
const SILENCE_LEVEL: u8 = 127;
/// Payload of a packet of sound: 32 kbit/s, and comfort noise.
const SPEECH_LEN: usize = 80;
const SILENCE_LEN: usize = 40;
const PLAINTEXT_MAX: usize = 1_500;

/// Camera and microphone of a client.
pub(crate) struct Publisher {
    person: u32,
    /// How long it starts after it is told to. As people do, those of a run start independently of each other: where all frames come at
    /// once, or none ever do, latencies say nothing.
    phase: Duration,
    camera: Option<Camera>,
    voice: Option<Voice>,
    /// Camera and microphone of the other mode: each way out has numbers of its own, so that neither sees a gap.
    spare: (Option<Camera>, Option<Voice>),
    transport_cc: u16,
}

/// What a publisher sends through.
pub(crate) struct WayOut<'a> {
    pub(crate) now: Instant,
    /// Now, as stamps tell it.
    pub(crate) ns: u64,
    pub(crate) mode: Mode,
    pub(crate) tally: &'a mut Tally,
    pub(crate) transport: &'a mut Transport,
    pub(crate) way: Way<'a>,
}

impl Publisher {
    /// One that is silent yet, with a microphone that is spoken into, or not, or without one.
    pub(crate) fn new(person: u32, camera: bool, voice: Option<bool>, seed: u64) -> Self {
        let equipment = || (camera.then(|| Camera::new(person)), voice.map(Voice::new));
        let (camera, voice) = equipment();
        let phase = FRAME_INTERVAL.mul_f64(Random::new(seed).fraction());
        Self { person, phase, camera, voice, spare: equipment(), transport_cc: 0 }
    }

    /// Leaves out all encodings but one.
    pub(crate) fn send_only(&mut self, encoding: u8) {
        self.camera.iter_mut().for_each(|camera| camera.send_only(encoding));
    }

    /// When [`Publisher::on_timeout`] next has work to do.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let camera = self.camera.iter().filter_map(Camera::next_timeout);
        camera.chain(self.voice.iter().filter_map(Voice::next_timeout)).min()
    }

    /// Starts both, at a moment of its own within the first frame.
    pub(crate) fn start(&mut self, now: Instant) {
        self.camera.iter_mut().for_each(|camera| camera.start(now + self.phase));
        self.voice.iter_mut().for_each(|voice| voice.start(now + self.phase));
    }

    /// Stops both.
    pub(crate) fn stop(&mut self) {
        self.camera.iter_mut().for_each(Camera::stop);
        self.voice.iter_mut().for_each(Voice::stop);
    }

    /// Starts or ends a talk spurt.
    pub(crate) fn speak(&mut self, now: Instant, speaking: bool) {
        if let Some(voice) = &mut self.voice {
            voice.speaking = speaking;
            voice.start(now);
        }
    }

    /// What the bridge wants of the camera.
    pub(crate) fn set_max_height(&mut self, max_height: i32) {
        let cameras = self.camera.iter_mut().chain(&mut self.spare.0);
        cameras.for_each(|camera| camera.set_max_height(max_height));
    }

    /// Changes between the bridge and a fan-out. Nobody sends meanwhile.
    pub(crate) fn change_way(&mut self) {
        std::mem::swap(&mut self.camera, &mut self.spare.0);
        std::mem::swap(&mut self.voice, &mut self.spare.1);
    }

    /// Takes a part of what the bridge reports: what it misses is sent again.
    pub(crate) fn handle(&mut self, part: Rtcp<'_>, out: &mut WayOut<'_>) {
        match part {
            Rtcp::Nack { media_ssrc, losses } => {
                let Some((_, Slot::Video(encoding))) = owner(media_ssrc) else { return };
                for sequence in losses.sequences() {
                    let found = self.camera.as_mut().and_then(|camera| camera.again(encoding, sequence));
                    if let Some((picture, rtx_sequence)) = found {
                        self.send_picture(out, encoding, &picture, Some(rtx_sequence));
                    }
                }
            }
            Rtcp::PictureLossIndication { media_ssrc } => {
                if let Some(((_, Slot::Video(encoding)), camera)) = owner(media_ssrc).zip(self.camera.as_mut()) {
                    camera.request_key(encoding);
                }
            }
            // Publishers send at the rate of the model, whatever the feedback says.
            Rtcp::SenderReport { .. }
            | Rtcp::ReceiverReport { .. }
            | Rtcp::TransportCc { .. }
            | Rtcp::FullIntraRequest { .. }
            | Rtcp::ReceiverEstimate { .. }
            | Rtcp::Other { .. } => {}
        }
    }

    /// Sends what is due.
    pub(crate) fn on_timeout(&mut self, out: &mut WayOut<'_>) {
        self.send_pictures(out);
        self.send_sound(out);
    }

    fn send_pictures(&mut self, out: &mut WayOut<'_>) {
        let Some(mut camera) = self.camera.take() else { return };
        let (now, ns) = (out.now, out.ns);
        let late = camera.on_timeout(now, ns, |encoding, picture| self.send_picture(out, encoding, picture, None));
        out.tally.late_frames += u64::from(late.is_some_and(|late| late > Duration::from_millis(5)));
        self.camera = Some(camera);
    }

    /// Sends a packet, or sends it again under this number.
    fn send_picture(&mut self, out: &mut WayOut<'_>, encoding: u8, picture: &Picture, again: Option<u16>) {
        let slot = if again.is_some() { Slot::Rtx(encoding) } else { Slot::Video(encoding) };
        let header = Header {
            marker: picture.stamp.index + 1 == picture.stamp.count,
            payload_type: if again.is_some() { VP8_RTX } else { VP8 },
            sequence: again.unwrap_or(picture.sequence),
            timestamp: picture.timestamp,
            ssrc: ssrc(self.person, slot),
        };
        self.send_rtp(out, header, None, |bytes| {
            let prefix = if again.is_some() { 2 } else { 0 };
            bytes[..prefix].copy_from_slice(&picture.sequence.to_be_bytes()[..prefix]);
            let end = prefix + picture.len;
            payload::write_video(&mut bytes[prefix..end], &picture.stamp, picture.numbers, picture.sent_ns);
            end
        });
    }

    fn send_sound(&mut self, out: &mut WayOut<'_>) {
        let Some(voice) = &mut self.voice else { return };
        let Some(number) = voice.on_timeout(out.now) else { return };
        let (level, len) = if voice.speaking { (SPEECH_LEVEL, SPEECH_LEN) } else { (SILENCE_LEVEL, SILENCE_LEN) };
        let stamp = Stamp { source: self.person, encoding: Stamp::AUDIO, count: 1, number, ..Stamp::default() };
        let header = Header {
            marker: number == 0,
            payload_type: OPUS,
            sequence: (number & 0xffff) as u16,
            timestamp: number.wrapping_mul(960),
            ssrc: ssrc(self.person, Slot::Audio),
        };
        let ns = out.ns;
        self.send_rtp(out, header, Some(level), |bytes| {
            payload::write_audio(&mut bytes[..len], &stamp, ns);
            len
        });
    }

    fn send_rtp(
        &mut self,
        out: &mut WayOut<'_>,
        header: Header,
        level: Option<u8>,
        payload: impl FnOnce(&mut [u8]) -> usize,
    ) {
        self.transport_cc = self.transport_cc.wrapping_add(1);
        let WayOut { mode, tally, transport, way, .. } = out;
        tally.sent += 1;
        let (number, level) = (self.transport_cc.to_be_bytes(), level.map(|level| [level]));
        way.send(|slot| {
            let mut extensions: ArrayVec<(u8, &[u8]), 2> = ArrayVec::new();
            extensions.push((TRANSPORT_CC_ID, &number));
            extensions.extend(level.iter().map(|level| (AUDIO_LEVEL_ID, &level[..])));
            let start = write_header(&mut slot[..PLAINTEXT_MAX], header, &extensions);
            let len = start + payload(&mut slot[start..PLAINTEXT_MAX]);
            match *mode {
                Mode::Bridge => transport.seal_rtp(slot, len).map(|(len, _, remote)| (len, remote)),
                Mode::FanOut { to } => Some((len, to)),
            }
        });
    }
}
