//! `session-initiate`: the offer, from the profile that every conference shares; and what a client reads from one.

use std::net::IpAddr;

use tertulia_model::profile::{
    self, HEADER_EXTENSIONS, PAYLOAD_TYPES, PayloadType, REMB, TRANSPORT_CC, VIDEO_FEEDBACK,
};
use tertulia_model::{
    Candidate, CandidateKind, Capabilities, ChannelKinds, FeedbackSsrcs, Fingerprint, IceCredentials, LocalTransport,
    MediaKind, Source, SourceName, SourceSet, TransportProtocol, VideoType,
};

use crate::element::Element;
use crate::ns;
use crate::sources::{self, Owner};

/// What an offer says beside the profile.
#[derive(Debug, Clone)]
pub struct Offer<'a> {
    /// A fresh session id.
    pub sid: &'a str,
    /// Real JID of the focus.
    pub initiator: &'a str,
    /// Id of the focus's session with the bridge; the client echoes it.
    pub bridge_session: &'a str,
    /// The bridge's side of the transport.
    pub transport: &'a LocalTransport,
    /// URL of the bridge channel, where the offer names a WebSocket.
    pub channel_url: &'a str,
    /// What the client can do.
    pub capabilities: Capabilities,
    /// Whether it reads sources as JSON.
    pub json_sources: bool,
    /// Whether anybody is offered redundant sound: then nobody is asked for the redundancy that Opus has of its own, as it would be sent
    /// twice. Who is offered it is said by the capabilities.
    pub opus_red: bool,
    /// Everybody's sources, the bridge's own included, simulcast stripped.
    pub sources: &'a [(Owner, SourceSet)],
    /// Whether it is asked to start muted: audio, video.
    pub start_muted: (bool, bool),
}

impl Offer<'_> {
    /// The `<jingle>` element.
    pub fn to_element(&self) -> Element {
        let mut jingle = Element::new("jingle", ns::JINGLE)
            .with_attr("action", "session-initiate")
            .with_attr("sid", self.sid)
            .with_attr("initiator", self.initiator);
        let mut group = Element::new("group", ns::GROUPING).with_attr("semantics", "BUNDLE");
        let channel_url = Some(self.channel_url).filter(|_| self.has_socket());
        let wanted = [(MediaKind::Audio, self.capabilities.audio), (MediaKind::Video, self.capabilities.video)];
        for kind in wanted.into_iter().filter_map(|(kind, wanted)| wanted.then_some(kind)) {
            let transport = transport_element(self.transport, channel_url);
            jingle.push(content(kind.as_str(), self.description(kind), transport));
            group.push(Element::new("content", ns::GROUPING).with_attr("name", kind.as_str()));
        }
        if self.has_data() {
            let description = Element::new("description", ns::JINGLE_RTP)
                .with_attr("media", "application")
                .with_child(Element::new("rtcp-mux", ns::JINGLE_RTP));
            let transport = transport_element(self.transport, channel_url).with_child(sctp_map());
            jingle.push(content("data", description, transport));
            group.push(Element::new("content", ns::GROUPING).with_attr("name", "data"));
        }
        jingle.push(group);
        if self.start_muted != (false, false) {
            let muted = Element::new("startmuted", ns::START_MUTED)
                .with_attr("audio", self.start_muted.0.to_string())
                .with_attr("video", self.start_muted.1.to_string());
            jingle.push(muted);
        }
        jingle.push(Element::new("bridge-session", ns::FOCUS).with_attr("id", self.bridge_session));
        if self.json_sources {
            jingle.push(Element::new("json-message", ns::JITMEET).with_text(&sources::to_json(self.sources)));
        }
        jingle
    }

    fn has_data(&self) -> bool {
        let wanted = match self.transport.channels {
            ChannelKinds::WebSocket => false,
            ChannelKinds::DataChannel | ChannelKinds::Both => true,
        };
        wanted && self.capabilities.data_channel
    }

    fn has_socket(&self) -> bool {
        match self.transport.channels {
            ChannelKinds::WebSocket | ChannelKinds::Both => true,
            ChannelKinds::DataChannel => !self.has_data(),
        }
    }

    fn description(&self, kind: MediaKind) -> Element {
        let mut description = Element::new("description", ns::JINGLE_RTP).with_attr("media", kind.as_str());
        let extensions = HEADER_EXTENSIONS.iter().filter(|row| row.kind == kind);
        let extensions =
            extensions.filter(|row| row.extension != profile::Extension::TransportCc || self.capabilities.transport_cc);
        let extensions = extensions.map(|row| {
            Element::new("rtp-hdrext", ns::HDREXT).with_attr("id", row.id.to_string()).with_attr("uri", row.uri)
        });
        let rows = PAYLOAD_TYPES.iter().filter(|row| row.kind == kind);
        let rows = rows.filter(|row| row.codec != profile::Codec::Red || self.capabilities.opus_red);
        let payloads = rows.flat_map(|row| self.payload_types(row));
        match kind {
            MediaKind::Audio => {
                description.set_attr("maxptime", "60");
                description = description.with_children(extensions).with_children(payloads);
            }
            MediaKind::Video => description = description.with_children(payloads).with_children(extensions),
        }
        description.push(Element::new("extmap-allow-mixed", ns::HDREXT));
        if !self.json_sources {
            description = description.with_children(sources::to_xml(self.sources, kind));
        }
        description.with_child(Element::new("rtcp-mux", ns::JINGLE_RTP))
    }

    /// The codec and, where the client understands it, its retransmissions.
    fn payload_types(&self, row: &PayloadType) -> Vec<Element> {
        let number = row.number.to_string();
        let mut codec = payload_element(&number, row.name, row.clock_rate);
        if row.channels > 1 {
            codec.set_attr("channels", row.channels.to_string());
        }
        let parameter = |(name, value): &(&str, &str)| {
            let name = Some(*name).filter(|name| !name.is_empty());
            Element::new("parameter", ns::JINGLE_RTP).with_attr_opt("name", name).with_attr("value", *value)
        };
        let parameters = row.parameters.iter().filter(|(name, _)| !self.opus_red || *name != "useinbandfec");
        let codec = codec.with_children(parameters.map(parameter)).with_children(self.feedback(row));
        let Some(rtx) = row.rtx.filter(|_| self.capabilities.rtx) else { return vec![codec] };
        let mut retransmissions =
            payload_element(&rtx.to_string(), "rtx", row.clock_rate).with_child(parameter(&("apt", &number)));
        if row.rtx_feedback {
            let plain = VIDEO_FEEDBACK.iter().filter(|fb| ![REMB, TRANSPORT_CC].contains(fb)).map(feedback_element);
            retransmissions = retransmissions.with_children(plain);
        }
        vec![codec, retransmissions]
    }

    fn feedback(&self, row: &PayloadType) -> Vec<Element> {
        let list: &[profile::Feedback] = match row.codec {
            profile::Codec::Opus => &[TRANSPORT_CC],
            profile::Codec::Red | profile::Codec::TelephoneEvent => &[],
            _ => VIDEO_FEEDBACK,
        };
        let is_known = |feedback: &&profile::Feedback| match **feedback {
            TRANSPORT_CC => self.capabilities.transport_cc,
            REMB => self.capabilities.remb,
            _ => true,
        };
        list.iter().filter(is_known).map(feedback_element).collect()
    }
}

/// The bridge's own sources. Clients put sources with these `msid`s first, on the m-lines that they send on themselves.
pub fn bridge_sources(feedback: FeedbackSsrcs) -> (Owner, SourceSet) {
    let source = |ssrc, kind: MediaKind| Source {
        ssrc,
        kind,
        name: SourceName::parse(&format!("jvb-{}0", kind.letter())).expect("a constant name"),
        msid: Some(format!("mixedmslabel mixedlabel{}0", kind.as_str())),
        video_type: VideoType::Camera,
    };
    let sources = vec![source(feedback.audio, MediaKind::Audio), source(feedback.video, MediaKind::Video)];
    (Owner::Bridge, SourceSet { sources, groups: Vec::new() })
}

/// `transport-info` with the new credentials of an ICE restart: one content, named audio.
pub fn ice_restart(sid: &str, transport: &LocalTransport, generation: u32) -> Element {
    let transport = transport_element(transport, None).with_attr("ice-generation", generation.to_string());
    let content = Element::new("content", ns::JINGLE)
        .with_attr("creator", "initiator")
        .with_attr("name", "audio")
        .with_child(transport);
    Element::new("jingle", ns::JINGLE).with_attr("action", "transport-info").with_attr("sid", sid).with_child(content)
}

fn content(name: &str, description: Element, transport: Element) -> Element {
    Element::new("content", ns::JINGLE)
        .with_attr("creator", "initiator")
        .with_attr("name", name)
        .with_attr("senders", "both")
        .with_child(description)
        .with_child(transport)
}

/// Turns the m-line into one for data channels (RFC 8841); clients make `a=sctp-port` of the number.
fn sctp_map() -> Element {
    Element::new("sctpmap", ns::SCTP)
        .with_attr("number", "5000")
        .with_attr("protocol", "webrtc-datachannel")
        .with_attr("streams", "1024")
}

fn transport_element(transport: &LocalTransport, channel_url: Option<&str>) -> Element {
    let fingerprint = Element::new("fingerprint", ns::DTLS)
        .with_attr("hash", transport.fingerprint.hash.as_str())
        .with_attr("setup", transport.fingerprint.setup.as_str())
        .with_attr("required", "false")
        .with_text(&transport.fingerprint.to_hex());
    let channel = channel_url.map(|url| Element::new("web-socket", ns::COLIBRI).with_attr("url", url));
    Element::new("transport", ns::ICE_UDP)
        .with_attr("ufrag", &transport.ice.ufrag)
        .with_attr("pwd", &transport.ice.pwd)
        .with_child(Element::new("rtcp-mux", ns::ICE_UDP))
        .with_child(fingerprint)
        .with_children(transport.candidates.iter().enumerate().map(candidate_element))
        .with_children(channel)
}

fn candidate_element((index, candidate): (usize, &Candidate)) -> Element {
    let (protocol, tcp_type) = match candidate.protocol {
        TransportProtocol::Udp => ("udp", None),
        TransportProtocol::TcpPassive => ("tcp", Some("passive")),
    };
    let element = Element::new("candidate", ns::ICE_UDP)
        .with_attr("id", format!("c{}", index + 1))
        .with_attr("foundation", &candidate.foundation)
        .with_attr("component", "1")
        .with_attr("generation", "0")
        .with_attr("network", "0")
        .with_attr("protocol", protocol)
        .with_attr_opt("tcptype", tcp_type)
        .with_attr("ip", candidate.ip.to_string())
        .with_attr("port", candidate.port.to_string())
        .with_attr("priority", candidate.priority.to_string());
    match candidate.kind {
        CandidateKind::Host => element.with_attr("type", "host"),
        CandidateKind::ServerReflexive { related, related_port } => element
            .with_attr("type", "srflx")
            .with_attr("rel-addr", related.to_string())
            .with_attr("rel-port", related_port.to_string()),
    }
}

fn payload_element(number: &str, name: &str, clock_rate: u32) -> Element {
    Element::new("payload-type", ns::JINGLE_RTP)
        .with_attr("id", number)
        .with_attr("name", name)
        .with_attr("clockrate", clock_rate.to_string())
}

fn feedback_element(feedback: &profile::Feedback) -> Element {
    let subtype = Some(feedback.subtype).filter(|subtype| !subtype.is_empty());
    Element::new("rtcp-fb", ns::RTCP_FB).with_attr("type", feedback.kind).with_attr_opt("subtype", subtype)
}

/// What a client needs from an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedOffer {
    /// To be echoed.
    pub sid: String,
    /// To be echoed.
    pub initiator: String,
    /// To be echoed in restarts.
    pub bridge_session: Option<String>,
    /// The bridge's credentials.
    pub ice: IceCredentials,
    /// The bridge's certificate.
    pub fingerprint: Fingerprint,
    /// Where to send checks by UDP.
    pub candidates: Vec<(IpAddr, u16)>,
    /// Where the bridge takes connections for checks by TCP (RFC 6544).
    pub tcp_candidates: Vec<(IpAddr, u16)>,
    /// Where the bridge channel is, if a WebSocket is offered.
    pub channel_url: Option<String>,
    /// Whether a data channel may be opened.
    pub data_channel: bool,
    /// Everybody's sources.
    pub sources: Vec<(Owner, SourceSet)>,
}

impl ReceivedOffer {
    /// Reads a `session-initiate`; `None` when something that a client needs is missing.
    pub fn parse(jingle: &Element) -> Option<Self> {
        let content = jingle.child("content", ns::JINGLE)?;
        let transport = content.child("transport", ns::ICE_UDP)?;
        let side = super::transport(jingle).ok()?;
        let candidates = |protocol: &str| -> Vec<(IpAddr, u16)> {
            let all = transport.children().filter(|child| child.is("candidate", ns::ICE_UDP));
            let named = all.filter(|child| child.attr("protocol") == Some(protocol));
            named
                .filter_map(|child| Some((child.attr("ip")?.parse().ok()?, child.attr("port")?.parse().ok()?)))
                .collect()
        };
        let data = |content: &Element| {
            content.is("content", ns::JINGLE)
                && content.child("transport", ns::ICE_UDP).is_some_and(|t| t.child("sctpmap", ns::SCTP).is_some())
        };
        Some(Self {
            sid: jingle.attr("sid")?.to_owned(),
            initiator: jingle.attr("initiator").unwrap_or("").to_owned(),
            bridge_session: super::bridge_session(jingle).id,
            ice: side.ice,
            fingerprint: side.fingerprint?,
            candidates: candidates("udp"),
            tcp_candidates: candidates("tcp"),
            data_channel: jingle.children().any(data),
            channel_url: transport.child("web-socket", ns::COLIBRI).and_then(|ws| ws.attr("url")).map(str::to_owned),
            sources: sources::from_focus(jingle).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tertulia_model::{ChannelAddress, ConferenceId, DtlsSetup, EndpointId, HashFunction, Ssrc};

    fn transport() -> LocalTransport {
        LocalTransport {
            ice: IceCredentials { ufrag: "b7x0".into(), pwd: "s3cretpasswords3cret24aa".into() },
            fingerprint: Fingerprint { hash: HashFunction::Sha256, digest: vec![7; 32], setup: DtlsSetup::ActPass },
            candidates: vec![Candidate {
                foundation: "1".into(),
                priority: 2_130_706_431,
                protocol: TransportProtocol::Udp,
                ip: "203.0.113.7".parse().unwrap(),
                port: 10_000,
                kind: CandidateKind::Host,
            }],
            channel: ChannelAddress {
                bridge: "b".into(),
                conference: ConferenceId(1),
                endpoint: EndpointId::parse("a").unwrap(),
                password: "p".into(),
            },
            channels: ChannelKinds::WebSocket,
        }
    }

    fn offer(json_sources: bool, capabilities: Capabilities) -> Element {
        offer_over(&transport(), json_sources, capabilities)
    }

    fn offer_over(transport: &LocalTransport, json_sources: bool, capabilities: Capabilities) -> Element {
        let feedback = FeedbackSsrcs { audio: Ssrc(1_000_000_001), video: Ssrc(1_000_000_002) };
        Offer {
            sid: "9q0tb1",
            initiator: "focus@auth.meet.example/focus",
            bridge_session: "8c0a",
            transport,
            channel_url: "wss://meet.example/colibri-ws/b/1/a?pwd=p",
            capabilities,
            json_sources,
            opus_red: capabilities.opus_red,
            sources: &[bridge_sources(feedback)],
            start_muted: (false, false),
        }
        .to_element()
    }

    const FULL: Capabilities = Capabilities::USUAL;

    #[test]
    fn a_client_reads_back_what_the_focus_wrote() {
        for json in [true, false] {
            let element = crate::parse(&offer(json, FULL).to_string()).unwrap();
            let read = ReceivedOffer::parse(&element).unwrap();
            assert_eq!(read.ice, transport().ice);
            assert_eq!(read.candidates, [("203.0.113.7".parse().unwrap(), 10_000)]);
            assert_eq!(read.sources.len(), 1);
            assert_eq!(read.sources[0].1.sources.len(), 2, "json: {json}");
        }
    }

    #[test]
    fn an_offer_leaves_out_what_the_client_cannot_do() {
        let text = offer(true, Capabilities { video: false, ..FULL }).to_string();
        assert!(!text.contains("VP8") && text.contains("opus"));
        let text = offer(true, Capabilities { rtx: false, transport_cc: false, ..FULL }).to_string();
        assert!(!text.contains("rtx") && !text.contains("transport-cc") && !text.contains("transport-wide-cc"));
        let remb = "<rtcp-fb xmlns='urn:xmpp:jingle:apps:rtp:rtcp-fb:0' type='goog-remb'/>";
        assert!(!text.contains("goog-remb") && !offer(true, FULL).to_string().contains("goog-remb"));
        let text = offer(true, Capabilities { transport_cc: false, remb: true, ..FULL }).to_string();
        assert_eq!((text.matches(remb).count(), text.matches("goog-remb").count()), (4, 4), "for the four codecs");
    }

    #[test]
    fn redundant_sound_is_offered_before_opus_to_those_who_take_it() {
        let audio = |capabilities| {
            let jingle = offer(true, capabilities);
            let content = jingle.child("content", ns::JINGLE).unwrap();
            let description = content.child("description", ns::JINGLE_RTP).unwrap();
            let rows = description.children().filter(|child| child.is("payload-type", ns::JINGLE_RTP));
            rows.map(ToString::to_string).collect::<Vec<_>>()
        };
        let (with, without) = (audio(Capabilities { opus_red: true, ..FULL }), audio(FULL));
        let red = "<payload-type xmlns='urn:xmpp:jingle:apps:rtp:1' id='112' name='red' clockrate='48000' channels='2'>\
                   <parameter value='111/111'/></payload-type>";
        assert_eq!(with[0], red);
        assert_eq!((with.len(), without.len()), (3, 2));
        assert!(without[0].contains("useinbandfec") && !with[1].contains("useinbandfec"));
        assert!(with[1].contains("minptime") && with[1].contains("transport-cc"));
    }

    #[test]
    fn a_data_channel_is_offered_to_those_who_can_and_the_others_keep_their_websocket() {
        let with = |channels, json, capabilities| {
            let transport = LocalTransport { channels, ..transport() };
            let read = ReceivedOffer::parse(&offer_over(&transport, json, capabilities)).unwrap();
            (read.data_channel, read.channel_url.is_some())
        };
        let unable = Capabilities { data_channel: false, ..FULL };
        assert_eq!(with(ChannelKinds::WebSocket, true, FULL), (false, true));
        assert_eq!(with(ChannelKinds::DataChannel, true, FULL), (true, false));
        assert_eq!(with(ChannelKinds::Both, true, FULL), (true, true));
        assert_eq!(with(ChannelKinds::DataChannel, true, unable), (false, true));
        assert_eq!(with(ChannelKinds::DataChannel, false, FULL), (true, false), "those with sources in XML too");
    }

    #[test]
    fn the_data_content_is_bundled_and_carries_the_sctp_map() {
        let transport = LocalTransport { channels: ChannelKinds::DataChannel, ..transport() };
        let text = offer_over(&transport, true, FULL).to_string();
        assert_eq!(text.matches("<sctpmap").count(), 1, "in the data content only");
        assert!(text.contains("number='5000'") && text.contains("webrtc-datachannel"));
        assert_eq!(text.matches("name='data'").count(), 2, "a content and its place in the group");
    }
}
