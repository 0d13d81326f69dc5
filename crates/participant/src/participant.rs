//! One person: signalling, media and devices put together. Sans-IO.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use serde_json::Value;
use tertulia_model::{
    EndpointId, GroupSemantics, MediaKind, Source, SourceGroup, SourceName, SourceSet, Ssrc, VideoType,
};
use tertulia_xmpp::Element;
use tertulia_xmpp::sources::Owner;

use crate::camera::{Camera, SentReport};
use crate::clock::Clock;
use crate::coding::Coding;
use crate::media::{Datagram, Devices, Media, MediaEvent};
use crate::receiver::{AudioReport, VideoReport};
use crate::signalling::{Addresses, Heard, Signalling, VideoWishes};
use crate::voice::Voice;

/// What a participant is told at the start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to go.
    pub addresses: Addresses,
    /// Our name in the room: usually the first eight characters of the user name.
    pub nick: EndpointId,
    /// What people read.
    pub display_name: String,
    /// Where our datagrams come from.
    pub local: SocketAddr,
    /// What we send.
    pub equipment: Equipment,
    /// By which pictures are stamped: one for all whose delays are to be compared.
    pub clock: Clock,
    /// Makes SSRCs and first sequence numbers.
    pub seed: u64,
}

/// What a participant sends.
#[derive(Debug, Clone, Copy)]
pub struct Equipment {
    /// Whether there is a microphone; it is silent until told to speak.
    pub microphone: bool,
    /// Cameras at the start, usually 0 or 1.
    pub cameras: u8,
    /// Their codec and layers.
    pub coding: Coding,
    /// Simulcast encodings of each, 1…3; one where layers are not streams of their own.
    pub encodings: u8,
    /// Frames a second of each.
    pub frames_per_second: u32,
    /// Bytes of a frame of each size, lowest first.
    pub frame_lens: [usize; 3],
    /// Whether to ask for a fixed set of SSRCs that carry other people's sources in turn, as the bridge announces on its channel.
    pub ssrc_rewriting: bool,
}

impl Equipment {
    /// A microphone and a camera of about 1 Mbit/s.
    pub const USUAL: Self = Self {
        microphone: true,
        cameras: 1,
        coding: Coding::Vp8,
        encodings: 3,
        frames_per_second: 15,
        frame_lens: [450, 1_800, 7_200],
        ssrc_rewriting: false,
    };
    /// The same with the layers and the rates of a browser: 150, 500 and 1 800 kbit/s at 30 frames a second.
    pub const BROWSER: Self =
        Self { coding: Coding::Vp8L1T3, frames_per_second: 30, frame_lens: [625, 2_083, 7_500], ..Self::USUAL };
}

impl Default for Equipment {
    fn default() -> Self {
        Self::USUAL
    }
}

/// What can happen to a participant.
#[derive(Debug)]
pub enum Input {
    /// A stanza of the server.
    Stanza(Element),
    /// A datagram.
    Datagram {
        /// Who sent it.
        from: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// The bridge channel is open.
    ChannelOpen,
    /// A text on the bridge channel.
    Channel(String),
}

/// What has to be done for a participant.
#[derive(Debug)]
pub enum Output {
    /// Send a stanza.
    Stanza(Element),
    /// Send a datagram.
    Datagram {
        /// To whom.
        to: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// Open the bridge channel at this URL; an earlier one is over.
    OpenChannel(String),
    /// Send a text on the bridge channel, once it is open.
    Channel(String),
    /// Tell the owner.
    Event(Event),
}

/// What the owner may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// In the room.
    Joined,
    /// Media flows.
    Connected,
    /// The bridge is not heard any more; a new session was asked for.
    Disconnected,
    /// Something was refused; the answer as it came.
    Refused(String),
    /// Somebody said something to all.
    Chat {
        /// Who.
        from: EndpointId,
        /// What.
        text: String,
    },
    /// Somebody speaks, says the bridge.
    DominantSpeaker(EndpointId),
    /// Out of the room, not by our own will.
    Out,
}

/// A person without a screen.
pub struct Participant {
    settings: Settings,
    signalling: Signalling,
    devices: Devices,
    own: SourceSet,
    media: Option<Media>,
    /// Of sessions that are over.
    old_violations: Vec<String>,
    wishes: Option<VideoWishes>,
    channel_open: bool,
    /// The channel is inside the media.
    uses_data_channel: bool,
    dominant: Option<EndpointId>,
    forwarded: Vec<String>,
    /// Source by SSRC, as the bridge said on the present channel.
    carried: BTreeMap<u32, String>,
    estimate_bps: Option<u64>,
    estimates_told: u32,
    /// What the bridge said last that it wants of our sources: lines, −1 for all.
    wanted_heights: BTreeMap<String, i32>,
    random: ChaCha8Rng,
    next_camera: u8,
    datagrams: Vec<Datagram>,
    media_events: Vec<MediaEvent>,
    stanzas: Vec<Element>,
}

impl Participant {
    /// Somebody who asks for the room at once.
    pub fn new(settings: Settings, out: &mut Vec<Output>) -> Self {
        let signalling = Signalling::new(
            settings.addresses.clone(),
            settings.nick.clone(),
            settings.display_name.clone(),
            settings.equipment.ssrc_rewriting,
        );
        let mut participant = Self {
            signalling,
            devices: Devices::default(),
            own: SourceSet::default(),
            media: None,
            old_violations: Vec::new(),
            wishes: None,
            channel_open: false,
            uses_data_channel: false,
            dominant: None,
            forwarded: Vec::new(),
            carried: BTreeMap::new(),
            estimate_bps: None,
            estimates_told: 0,
            wanted_heights: BTreeMap::new(),
            random: ChaCha8Rng::seed_from_u64(settings.seed),
            next_camera: 0,
            datagrams: Vec::new(),
            media_events: Vec::new(),
            stanzas: Vec::new(),
            settings,
        };
        if participant.settings.equipment.microphone {
            participant.plug_in_microphone();
        }
        for _ in 0..participant.settings.equipment.cameras {
            participant.plug_in_camera(VideoType::Camera);
        }
        participant.signalling.request(&mut participant.stanzas);
        participant.flush(out);
        participant
    }

    /// Takes what happened; pushes what has to be done, in order.
    pub fn handle(&mut self, now: Instant, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Stanza(stanza) => {
                let heard = self.signalling.handle(&stanza, &self.own, &mut self.stanzas);
                if let Some(heard) = heard {
                    self.handle_heard(now, heard, out);
                }
            }
            Input::Datagram { from, bytes } => {
                if let Some(media) = &mut self.media {
                    media.handle(now, from, &bytes, &mut self.devices, &mut self.datagrams, &mut self.media_events);
                }
            }
            Input::ChannelOpen => self.greet(out),
            Input::Channel(text) => self.handle_channel(now, &text, out),
        }
        self.handle_media_events(now, out);
        self.flush(out);
    }

    /// Runs every deadline that has passed.
    pub fn on_timeout(&mut self, now: Instant, out: &mut Vec<Output>) {
        if let Some(media) = &mut self.media {
            media.on_timeout(now, &mut self.devices, &mut self.datagrams, &mut self.media_events);
        }
        self.handle_media_events(now, out);
        self.flush(out);
    }

    /// When [`Participant::on_timeout`] next has work to do; `None` means never.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.media.as_ref().and_then(|media| media.next_timeout(&self.devices))
    }

    /// Starts or stops speaking.
    pub fn speak(&mut self, now: Instant, speaking: bool) {
        if let Some(voice) = &mut self.devices.voice {
            voice.speak(now, speaking);
        }
    }

    /// Says to the bridge what to send.
    pub fn wish(&mut self, wishes: VideoWishes, out: &mut Vec<Output>) {
        if self.channel_open {
            self.say(wishes.to_json(), out);
        }
        self.wishes = Some(wishes);
    }

    /// Adds a camera or a screen to a running session; its name.
    pub fn add_video(&mut self, video_type: VideoType, out: &mut Vec<Output>) -> SourceName {
        let before = self.own.clone();
        let name = self.plug_in_camera(video_type);
        let added = SourceSet {
            sources: self.own.sources[before.sources.len()..].to_vec(),
            groups: self.own.groups[before.groups.len()..].to_vec(),
        };
        if let Some(media) = &mut self.media {
            media.declare(&self.devices);
            self.signalling.change(true, &added, &self.own, &mut self.stanzas);
        }
        self.flush(out);
        name
    }

    /// Takes a camera or a screen away.
    pub fn remove_video(&mut self, name: &SourceName, out: &mut Vec<Output>) {
        let (gone, kept) = std::mem::take(&mut self.own.sources).into_iter().partition(|source| source.name == *name);
        self.own.sources = kept;
        let mut removed = SourceSet { sources: gone, groups: Vec::new() };
        let is_gone = |group: &SourceGroup| {
            group.ssrcs.first().is_some_and(|first| removed.sources.iter().any(|source| source.ssrc == *first))
        };
        (removed.groups, self.own.groups) = std::mem::take(&mut self.own.groups).into_iter().partition(is_gone);
        self.devices.cameras.retain(|camera| camera.name != *name);
        if let Some(media) = &mut self.media {
            media.undeclare(name);
            self.signalling.change(false, &removed, &self.own, &mut self.stanzas);
        }
        self.flush(out);
    }

    /// Says something to everybody.
    pub fn chat(&mut self, text: &str, out: &mut Vec<Output>) {
        self.signalling.chat(text, &mut self.stanzas);
        self.flush(out);
    }

    /// Leaves; nothing more will be asked for.
    pub fn leave(&mut self, out: &mut Vec<Output>) {
        self.signalling.leave(&mut self.stanzas);
        self.end_session();
        self.flush(out);
    }

    /// Our name in the room.
    pub fn nick(&self) -> &EndpointId {
        &self.settings.nick
    }

    /// Whether the bridge channel is a data channel, and open.
    pub fn has_data_channel(&self) -> bool {
        self.uses_data_channel && self.channel_open
    }

    /// Whether media flows.
    pub fn is_connected(&self) -> bool {
        self.media.as_ref().is_some_and(Media::is_connected)
    }

    /// Everybody else in the room.
    pub fn occupants(&self) -> impl Iterator<Item = &EndpointId> {
        self.signalling.occupants.iter()
    }

    /// Who speaks, as the bridge said last.
    pub fn dominant_speaker(&self) -> Option<&EndpointId> {
        self.dominant.as_ref()
    }

    /// Names of the sources that the bridge says it forwards.
    pub fn forwarded_sources(&self) -> &[String] {
        &self.forwarded
    }

    /// What the bridge said on the present channel that its SSRCs carry: names of sources. Empty without SSRC rewriting.
    pub fn carried(&self) -> &BTreeMap<u32, String> {
        &self.carried
    }

    /// Under how many different SSRCs packets of a kind came in this session, retransmissions left aside.
    pub fn ssrc_count(&self, kind: MediaKind) -> usize {
        self.media.as_ref().map_or(0, |media| media.ssrc_count(kind))
    }

    /// What the bridge says our line can take, in bits a second, as it said last.
    pub fn estimate_bps(&self) -> Option<u64> {
        self.estimate_bps
    }

    /// How often it said so.
    pub fn estimates_told(&self) -> u32 {
        self.estimates_told
    }

    /// The lines that the bridge wants of our sources at most, by name, as it said last; −1 is no limit, 0 nothing.
    pub fn wanted_heights(&self) -> &BTreeMap<String, i32> {
        &self.wanted_heights
    }

    /// What each of our cameras sent, since it was plugged in.
    pub fn sent(&self) -> impl Iterator<Item = &SentReport> {
        self.devices.cameras.iter().map(|camera| &camera.report)
    }

    /// Packets of sound that our microphone made.
    pub fn spoken(&self) -> u32 {
        self.devices.voice.as_ref().map_or(0, |voice| voice.count)
    }

    /// Every video source that is signalled, and how it fares.
    pub fn video(&self) -> impl Iterator<Item = &VideoReport> {
        self.media.iter().flat_map(Media::video_reports)
    }

    /// Every audio source that is signalled, and how it fares.
    pub fn audio(&self) -> impl Iterator<Item = &AudioReport> {
        self.media.iter().flat_map(Media::audio_reports)
    }

    /// Everything about what was received that no loss excuses, since the beginning; empty when all is well.
    pub fn violations(&self) -> Vec<String> {
        let present = self.media.iter().flat_map(Media::violations);
        self.old_violations.iter().cloned().chain(present).collect()
    }

    fn end_session(&mut self) {
        if let Some(media) = self.media.take() {
            self.old_violations.extend(media.violations());
        }
    }

    fn handle_heard(&mut self, now: Instant, heard: Heard, out: &mut Vec<Output>) {
        match heard {
            Heard::Joined => out.push(Output::Event(Event::Joined)),
            Heard::Refused(text) => out.push(Output::Event(Event::Refused(text))),
            Heard::Offer(offer) => {
                let Some(mut media) = Media::new(now, self.settings.local, self.settings.clock, &offer) else { return };
                let Some((ice, fingerprint)) = media.transport() else { return };
                media.declare(&self.devices);
                self.note_signalled(&offer.sources);
                media.expect(&offer.sources);
                self.end_session();
                self.media = Some(media);
                // A new session on the bridge knows nothing of what was sent before.
                for camera in &mut self.devices.cameras {
                    camera.set_max_height(-1);
                }
                self.signalling.accept(&self.own, &ice, &fingerprint, &mut self.stanzas);
                self.channel_open = false;
                // As Jitsi's clients do: the data channel, where both are offered.
                self.uses_data_channel = offer.data_channel;
                out.extend(offer.channel_url.filter(|_| !offer.data_channel).map(Output::OpenChannel));
            }
            Heard::SourcesAdded(all) => {
                self.note_signalled(&all);
                if let Some(media) = &mut self.media {
                    media.expect(&all);
                }
            }
            Heard::SourcesRemoved(all) => {
                if let Some(media) = &mut self.media {
                    media.forget(&all);
                }
            }
            Heard::SessionEnded => self.end_session(),
            Heard::Occupants => {}
            Heard::Chat { from, text } => out.push(Output::Event(Event::Chat { from, text })),
            Heard::Out => {
                self.end_session();
                out.push(Output::Event(Event::Out));
            }
        }
    }

    /// With rewriting the bridge tells of sources, and the focus must not.
    fn note_signalled(&mut self, all: &[(Owner, SourceSet)]) {
        let others = all.iter().any(|(owner, _)| matches!(owner, Owner::Endpoint(_)));
        if others && self.settings.equipment.ssrc_rewriting {
            self.old_violations.push("sources are signalled although SSRCs are rewritten".into());
        }
    }

    /// The bridge channel opened.
    fn greet(&mut self, out: &mut Vec<Output>) {
        self.channel_open = true;
        self.carried.clear();
        self.say(r#"{"colibriClass":"ClientHello"}"#.into(), out);
        if let Some(wishes) = &self.wishes {
            self.say(wishes.to_json(), out);
        }
    }

    /// Says something on the bridge channel, whichever it is.
    fn say(&mut self, text: String, out: &mut Vec<Output>) {
        if !self.uses_data_channel {
            out.push(Output::Channel(text));
        } else if let Some(media) = &mut self.media {
            // One that is full loses it: wishes are said again with the next change.
            let _ = media.say(&text);
        }
    }

    fn handle_channel(&mut self, now: Instant, text: &str, out: &mut Vec<Output>) {
        let Ok(message) = serde_json::from_str::<Value>(text) else { return };
        match message["colibriClass"].as_str() {
            Some("SenderSourceConstraints") => {
                let (name, height) = (message["sourceName"].as_str(), message["maxHeight"].as_i64());
                let height = height.and_then(|height| i32::try_from(height).ok()).unwrap_or(-1);
                self.wanted_heights.extend(name.map(|name| (name.to_owned(), height)));
                let camera = self.devices.cameras.iter_mut().find(|camera| Some(camera.name.as_str()) == name);
                if let Some(camera) = camera {
                    camera.set_max_height(height);
                }
            }
            Some("DominantSpeakerEndpointChangeEvent") => {
                let speaker = message["dominantSpeakerEndpoint"].as_str();
                self.dominant = speaker.and_then(|id| EndpointId::parse(id).ok());
                out.extend(self.dominant.clone().map(|speaker| Output::Event(Event::DominantSpeaker(speaker))));
            }
            Some("VideoSourcesMap") => self.handle_map(now, MediaKind::Video, &message),
            Some("AudioSourcesMap") => self.handle_map(now, MediaKind::Audio, &message),
            Some("ConnectionStats") => {
                self.estimate_bps = message["estimatedDownlinkBandwidth"].as_u64();
                self.estimates_told += 1;
            }
            Some("ForwardedSources") => {
                let names = message["forwardedSources"].as_array().into_iter().flatten();
                self.forwarded = names.filter_map(|name| name.as_str().map(str::to_owned)).collect();
            }
            _ => {}
        }
    }

    /// SSRCs carry other sources from now on; what is not named stays as it is.
    fn handle_map(&mut self, now: Instant, kind: MediaKind, message: &Value) {
        for entry in message["mappedSources"].as_array().into_iter().flatten() {
            let number = |value: &Value| value.as_u64().and_then(|ssrc| u32::try_from(ssrc).ok());
            let name = entry["source"].as_str().and_then(|name| SourceName::parse(name).ok());
            let owner = entry["owner"].as_str().and_then(|owner| EndpointId::parse(owner).ok());
            let (Some(ssrc), Some(name), Some(owner)) = (number(&entry["ssrc"]), name, owner) else {
                self.old_violations.push(format!("a map of sources with {entry}"));
                continue;
            };
            // Of one source there is one stream: its older one carries nothing any more.
            self.carried.retain(|_, carried| carried != name.as_str());
            self.carried.insert(ssrc, name.to_string());
            if let Some(media) = &mut self.media {
                media.carry(now, kind, (ssrc, number(&entry["rtx"])), &name, &owner);
            }
        }
    }

    /// What the media told, after it was given something.
    fn handle_media_events(&mut self, now: Instant, out: &mut Vec<Output>) {
        for event in std::mem::take(&mut self.media_events) {
            match event {
                MediaEvent::ChannelOpen => self.greet(out),
                MediaEvent::ChannelText(text) => self.handle_channel(now, &text, out),
                MediaEvent::Connected => out.push(Output::Event(Event::Connected)),
                MediaEvent::Lost => {
                    self.signalling.restart(&mut self.stanzas);
                    out.push(Output::Event(Event::Disconnected));
                }
            }
        }
    }

    /// Pushes what piled up in the parts.
    fn flush(&mut self, out: &mut Vec<Output>) {
        out.extend(self.stanzas.drain(..).map(Output::Stanza));
        out.extend(
            self.datagrams.drain(..).map(|datagram| Output::Datagram { to: datagram.to, bytes: datagram.bytes }),
        );
    }

    fn plug_in_microphone(&mut self) {
        let name = SourceName::of(&self.settings.nick, MediaKind::Audio, 0);
        let ssrc = self.ssrc();
        self.devices.voice = Some(Voice::new(name.clone(), ssrc, self.random.next_u32()));
        let msid = Some(self.msid(&name));
        self.own.sources.push(Source { ssrc, kind: MediaKind::Audio, name, msid, video_type: VideoType::Camera });
    }

    fn plug_in_camera(&mut self, video_type: VideoType) -> SourceName {
        let name = SourceName::of(&self.settings.nick, MediaKind::Video, self.next_camera);
        self.next_camera += 1;
        let equipment = self.settings.equipment;
        // A shared screen has one encoding.
        let simulcast = equipment.coding.is_simulcast() && !video_type.is_desktop();
        let count = if simulcast { equipment.encodings.clamp(1, 3) } else { 1 };
        let ssrcs: Vec<(Ssrc, Ssrc)> = (0..count).map(|_| (self.ssrc(), self.ssrc())).collect();
        let (kind, msid) = (MediaKind::Video, Some(self.msid(&name)));
        for ssrc in ssrcs.iter().flat_map(|(ssrc, rtx)| [*ssrc, *rtx]) {
            self.own.sources.push(Source { ssrc, kind, name: name.clone(), msid: msid.clone(), video_type });
        }
        if count > 1 {
            let ssrcs = ssrcs.iter().map(|(ssrc, _)| *ssrc).collect();
            self.own.groups.push(SourceGroup { semantics: GroupSemantics::Sim, kind, ssrcs });
        }
        for (ssrc, rtx) in &ssrcs {
            let ssrcs = vec![*ssrc, *rtx];
            self.own.groups.push(SourceGroup { semantics: GroupSemantics::Fid, kind, ssrcs });
        }
        let (rate, lens, seed) = (equipment.frames_per_second, equipment.frame_lens, self.random.next_u32());
        self.devices.cameras.push(Camera::new(name.clone(), equipment.coding, &ssrcs, rate, lens, seed));
        name
    }

    /// Ten digits, as browsers' mostly have.
    fn ssrc(&mut self) -> Ssrc {
        Ssrc(1_000_000_000 + self.random.next_u32() % 3_000_000_000)
    }

    fn msid(&mut self, name: &SourceName) -> String {
        let suffix = name.as_str().rsplit('-').next().unwrap_or("x");
        format!("{}-{suffix}-{:08x} {:08x}", self.settings.nick, self.random.next_u32(), self.random.next_u32())
    }
}
