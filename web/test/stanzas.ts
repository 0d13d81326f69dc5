/** Stanzas for the tests, laid out as the newest stock parts write them; every name and number is made up. */

export const ROOM = "standup@muc.meet.example";
export const FOCUS = `${ROOM}/focus`;
export const SELF = "3c1f07aa";
export const SELF_JID = `${SELF}-0f1e-4d2c-8b3a-1122aabbccdd@meet.example/r2`;
export const OTHER = "77aa01fe";
export const THIRD = "9be22d10";

const TRANSPORT = `<transport xmlns='urn:xmpp:jingle:transports:ice-udp:1' ufrag='b7x01' pwd='s3cretpasswords3cret24'><rtcp-mux/>
 <fingerprint xmlns='urn:xmpp:jingle:apps:dtls:0' hash='sha-256' setup='actpass' required='false'>AB:CD:EF:01:23:45:67:89:AB:CD:EF:01:23:45:67:89:AB:CD:EF:01:23:45:67:89:AB:CD:EF:01:23:45:67:89</fingerprint>
 <web-socket xmlns='http://jitsi.org/protocol/colibri' url='wss://meet.example/colibri-ws/jvb1/5e0c/${SELF}?pwd=k3y'/>
 <candidate id='c1' foundation='1' component='1' generation='0' network='0' protocol='udp' type='host' ip='203.0.113.7' port='10000' priority='2130706431'/>
 <candidate id='c2' foundation='2' component='1' generation='0' network='0' protocol='udp' type='srflx' ip='198.51.100.9' port='10000' rel-addr='10.0.0.5' rel-port='10000' priority='1694498815'/>
 <candidate id='c3' foundation='3' component='1' generation='0' network='0' protocol='tcp' tcptype='passive' type='host' ip='203.0.113.7' port='443' priority='1518214911'/>
</transport>`;

const FB = (type: string, subtype?: string): string =>
  `<rtcp-fb xmlns='urn:xmpp:jingle:apps:rtp:rtcp-fb:0' type='${type}'${subtype === undefined ? "" : ` subtype='${subtype}'`}/>`;
const VIDEO_FB = FB("ccm", "fir") + FB("nack") + FB("nack", "pli") + FB("transport-cc");
const EXT = (id: number, uri: string): string =>
  `<rtp-hdrext xmlns='urn:xmpp:jingle:apps:rtp:rtp-hdrext:0' id='${id}' uri='${uri}'/>`;
const TWCC = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
const codec = (id: number, name: string, parameters = ""): string =>
  `<payload-type id='${id}' name='${name}' clockrate='90000'>${parameters}${VIDEO_FB}</payload-type>`;
const rtx = (id: number, apt: number): string =>
  `<payload-type id='${id}' name='rtx' clockrate='90000'><parameter name='apt' value='${apt}'/>${FB("nack")}</payload-type>`;

export const JSON_SOURCES = {
  jvb: [
    [{ s: 1022334455, n: "jvb-v0", m: "mixedmslabel mixedlabelvideo0" }],
    [],
    [{ s: 1021334455, n: "jvb-a0", m: "mixedmslabel mixedlabelaudio0" }],
  ],
  [OTHER]: [
    [
      { s: 3100200301, n: `${OTHER}-v0`, m: `${OTHER}-video-0-1 5b1e-1` },
      { s: 3100200302, n: `${OTHER}-v0`, m: `${OTHER}-video-0-1 5b1e-1` },
    ],
    [["f", 3100200301, 3100200302]],
    [{ s: 3100200401, n: `${OTHER}-a0`, m: `${OTHER}-audio-0-1 c04d-1` }],
  ],
};

const escape = (json: unknown): string => JSON.stringify(json).replace(/&/g, "&amp;").replace(/</g, "&lt;");

export function offer(sid = "9q0tb1", sources: unknown = JSON_SOURCES, id = "f7"): string {
  return `<iq xmlns='jabber:client' type='set' id='${id}' from='${FOCUS}' to='${SELF_JID}'>
<jingle xmlns='urn:xmpp:jingle:1' action='session-initiate' sid='${sid}' initiator='focus@auth.meet.example/focus'>
<content creator='initiator' name='audio' senders='both'><description xmlns='urn:xmpp:jingle:apps:rtp:1' media='audio' maxptime='60'>
 ${EXT(1, "urn:ietf:params:rtp-hdrext:ssrc-audio-level")}${EXT(10, "urn:ietf:params:rtp-hdrext:sdes:mid")}${EXT(5, TWCC)}
 <payload-type id='111' name='opus' clockrate='48000' channels='2'><parameter name='minptime' value='10'/><parameter name='useinbandfec' value='1'/>${FB("transport-cc")}</payload-type>
 <payload-type id='126' name='telephone-event' clockrate='8000'/>
 <extmap-allow-mixed xmlns='urn:xmpp:jingle:apps:rtp:rtp-hdrext:0'/><rtcp-mux/></description>${TRANSPORT}</content>
<content creator='initiator' name='video' senders='both'><description xmlns='urn:xmpp:jingle:apps:rtp:1' media='video'>
 ${codec(41, "AV1")}${codec(100, "VP8")}${codec(107, "H264", "<parameter name='profile-level-id' value='42e01f;level-asymmetry-allowed=1;packetization-mode=1;'/>")}${codec(101, "VP9")}
 ${rtx(42, 41)}${rtx(96, 100)}${rtx(97, 101)}${rtx(99, 107)}
 ${EXT(11, "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension")}${EXT(10, "urn:ietf:params:rtp-hdrext:sdes:mid")}
 ${EXT(3, "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time")}${EXT(5, TWCC)}
 <extmap-allow-mixed xmlns='urn:xmpp:jingle:apps:rtp:rtp-hdrext:0'/><rtcp-mux/></description>${TRANSPORT}</content>
<group xmlns='urn:xmpp:jingle:apps:grouping:0' semantics='BUNDLE'><content name='audio'/><content name='video'/></group>
<bridge-session xmlns='http://jitsi.org/protocol/focus' id='8c0a4f52' region='eu1'/>
<json-message xmlns='http://jitsi.org/jitmeet'>${escape({ sources })}</json-message>
</jingle></iq>`;
}

export function sourceAdd(sid: string, sources: unknown, action = "source-add", id = "f8"): string {
  return `<iq xmlns='jabber:client' type='set' id='${id}' from='${FOCUS}' to='${SELF_JID}'><jingle xmlns='urn:xmpp:jingle:1' action='${action}' sid='${sid}'>
<json-message xmlns='http://jitsi.org/jitmeet'>${escape({ sources })}</json-message></jingle></iq>`;
}

export function presence(nick: string, extra = "", item = "affiliation='none' role='participant'"): string {
  return `<presence xmlns='jabber:client' from='${ROOM}/${nick}' to='${SELF_JID}'>${extra}
<x xmlns='http://jabber.org/protocol/muc#user'><item ${item} jid='${nick}-0000@meet.example/r'/></x></presence>`;
}

export const FOCUS_PRESENCE = `<presence xmlns='jabber:client' from='${FOCUS}'><c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='http://jitsi.org/jicofo' ver='x'/>
<conference-properties xmlns='http://jitsi.org/protocol/focus'><property key='support-terminate-restart' value='true'/></conference-properties>
<x xmlns='http://jabber.org/protocol/muc#user'><item affiliation='owner' role='moderator' jid='focus@auth.meet.example/focus'/></x></presence>`;

export const SELF_PRESENCE = `<presence xmlns='jabber:client' from='${ROOM}/${SELF}' to='${SELF_JID}'><SourceInfo>{}</SourceInfo>
<x xmlns='http://jabber.org/protocol/muc#user'><status code='100'/><item affiliation='owner' role='moderator' jid='${SELF_JID}'/><status code='110'/></x></presence>`;

export const NICK = (name: string): string => `<nick xmlns='http://jabber.org/protocol/nick'>${name}</nick>`;
export const SOURCE_INFO = (info: unknown): string => `<SourceInfo>${escape(info)}</SourceInfo>`;

export const CONFERENCE_READY = `<iq xmlns='jabber:client' id='q1' from='focus.meet.example' type='result'>
<conference xmlns='http://jitsi.org/protocol/focus' room='${ROOM}' ready='true' focusjid='focus@auth.meet.example'><property name='authentication' value='false'/></conference></iq>`;

export const result = (id = "x"): string => `<iq xmlns='jabber:client' type='result' id='${id}' from='${FOCUS}'/>`;
export const failure = (condition: string): string =>
  `<iq xmlns='jabber:client' type='error' id='x' from='${FOCUS}'><error type='cancel'><${condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>`;

/** An answer as a browser on libwebrtc writes it, cut to what matters. */
export const ANSWER_SDP = [
  "v=0",
  "o=- 1 2 IN IP4 127.0.0.1",
  "s=-",
  "t=0 0",
  "a=group:BUNDLE 0 1",
  "a=extmap-allow-mixed",
  "a=msid-semantic: WMS",
  "m=audio 9 UDP/TLS/RTP/SAVPF 111 126",
  "c=IN IP4 0.0.0.0",
  "a=rtcp:9 IN IP4 0.0.0.0",
  "a=ice-ufrag:Zx7S",
  "a=ice-pwd:0xTPxvbk/QZL2jLyeDxivp9I",
  "a=fingerprint:sha-256 12:34:56",
  "a=setup:active",
  "a=mid:0",
  "a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level",
  `a=extmap:5 ${TWCC}`,
  "a=sendrecv",
  "a=msid:- t0",
  "a=rtcp-mux",
  "a=rtpmap:111 opus/48000/2",
  "a=rtcp-fb:111 transport-cc",
  "a=fmtp:111 minptime=10;useinbandfec=1",
  "a=rtpmap:126 telephone-event/8000",
  "a=ssrc:2404769321 cname:c1",
  "m=video 9 UDP/TLS/RTP/SAVPF 100 96 41",
  "c=IN IP4 0.0.0.0",
  "a=rtcp:9 IN IP4 0.0.0.0",
  "a=ice-ufrag:Zx7S",
  "a=ice-pwd:0xTPxvbk/QZL2jLyeDxivp9I",
  "a=fingerprint:sha-256 12:34:56",
  "a=setup:active",
  "a=mid:1",
  "a=extmap:10 urn:ietf:params:rtp-hdrext:sdes:mid",
  "a=extmap-allow-mixed",
  "a=sendrecv",
  "a=msid:- t1",
  "a=rtcp-mux",
  "a=rtpmap:100 VP8/90000",
  "a=rtcp-fb:100 nack pli",
  "a=rtpmap:96 rtx/90000",
  "a=fmtp:96 apt=100",
  "a=rtpmap:41 AV1/90000",
  "a=fmtp:41 level-idx=5;profile=0;tier=0",
  "a=ssrc-group:FID 1490956426 3273045777",
  "a=ssrc:1490956426 cname:c1",
  "a=ssrc:1490956426 msid:- t1",
  "a=ssrc:3273045777 cname:c1",
  "a=ssrc:3273045777 msid:- t1",
  "",
].join("\r\n");
