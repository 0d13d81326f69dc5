/** The codecs against stanzas and descriptions laid out as the stock parts write them. */

import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import { ownAudio, ownCamera, type EndpointId } from "../src/model";
import { CAPS_HASH, discoAnswer, FEATURES } from "../src/wire/caps";
import { constraintsMessage, parseBridgeMessage, statsMessage, videoTypeMessage } from "../src/wire/channel";
import { parseChat, parseServices, writeChat } from "../src/wire/chat";
import { conferenceRequest, parseConferenceAnswer } from "../src/wire/focus";
import {
  iceRestartRequest,
  parseJingle,
  sessionAccept,
  sourceChange,
  terminateRestart,
  transportInfo,
  type JingleAction,
  type Offer,
} from "../src/wire/jingle";
import { addEncodings, localTransport, parseAnswer, parseOwnSources } from "../src/wire/local-sdp";
import { parsePresence, writePresence } from "../src/wire/presence";
import { firstSlots, orderPayloads, planSlots, writeRemote } from "../src/wire/remote-sdp";
import { parseSources, primarySsrc } from "../src/wire/sources";
import { child, el, escape, write } from "../src/wire/xml";
import { read } from "./read";
import * as S from "./stanzas";

const self = S.SELF as EndpointId;

function jingle(text: string): JingleAction {
  const element = child(read(text), "jingle");
  if (element === undefined) throw new Error("no jingle");
  return parseJingle(element);
}
function offered(text = S.offer()): Offer {
  const action = jingle(text);
  if (action.action !== "session-initiate") throw new Error(action.action);
  return action.offer;
}

describe("xml", () => {
  test("a namespace is written where it starts, and on the root always", () => {
    expect(write(el("iq", { type: "get" }, el("ping", { xmlns: "urn:xmpp:ping" }, el("x"))))).toBe(
      '<iq xmlns="jabber:client" type="get"><ping xmlns="urn:xmpp:ping"><x/></ping></iq>',
    );
  });
  test("what was written is read back the same", () => {
    const written = el("message", { xmlns: "jabber:client", to: "a'b\"c" }, el("body", {}, "1 < 2 & 'three' \u{1F600}\n"));
    expect(write(read(write(written)))).toBe(write(written));
  });
  test("characters that XML forbids are left out, whole emoji are kept", () => {
    expect(escape("a\u0000b\u000bc\ud800d\u{1F600}")).toBe("abcd\u{1F600}");
  });
});

describe("caps", () => {
  test("the hash is that of the features", () => {
    const hash = createHash("sha1")
      .update(FEATURES.map((feature) => `${feature}<`).join(""))
      .digest("base64");
    expect(CAPS_HASH).toBe(hash);
    expect([...FEATURES]).toEqual([...FEATURES].sort());
  });
  test("with the data channel's feature the list is the stock client's", () => {
    const stock = [...FEATURES, "urn:xmpp:jingle:transports:dtls-sctp:1"].sort();
    expect(
      createHash("sha1")
        .update(stock.map((feature) => `${feature}<`).join(""))
        .digest("base64"),
    ).toBe("dtzK/3xhISaXUMVg59IpXxdvKyQ=");
  });
  test("another node is not answered", () => {
    expect(discoAnswer(el("query", { node: "https://somebody.else#x" }))).toBeNull();
    expect(discoAnswer(el("query"))?.nodes).toHaveLength(FEATURES.length);
  });
});

describe("an offer", () => {
  test("is read with its media, transport, channel and bridge session", () => {
    const offer = offered();
    expect(offer.media.map((media) => media.kind)).toEqual(["audio", "video"]);
    expect(offer.channelUrl).toBe(`wss://meet.example/colibri-ws/jvb1/5e0c/${S.SELF}?pwd=k3y`);
    expect(offer.bridge).toEqual({ id: "8c0a4f52", region: "eu1" });
    expect(offer.transport.ufrag).toBe("b7x01");
    expect(offer.transport.fingerprint?.setup).toBe("actpass");
    expect(offer.transport.candidates).toEqual([
      "candidate:1 1 udp 2130706431 203.0.113.7 10000 typ host generation 0",
      "candidate:2 1 udp 1694498815 198.51.100.9 10000 typ srflx raddr 10.0.0.5 rport 10000 generation 0",
      "candidate:3 1 tcp 1518214911 203.0.113.7 443 typ host tcptype passive generation 0",
    ]);
    const h264 = offer.media[1]?.payloads.find((payload) => payload.name === "H264");
    expect(h264?.parameters).toBe("profile-level-id=42e01f;level-asymmetry-allowed=1;packetization-mode=1");
  });
  test("becomes one m-line per remote source after the two that this client sends on", () => {
    const offer = offered();
    const slots = planSlots(firstSlots(offer), { sources: offer.sources, share: false });
    const sdp = writeRemote(offer, slots, 1, ["VP8"], offer.transport);
    expect(sdp.match(/^m=\w+/gm)).toEqual(["m=audio", "m=video", "m=video", "m=audio"]);
    expect(sdp.match(/^a=(sendrecv|sendonly|recvonly|inactive)/gm)).toEqual([
      "a=sendrecv",
      "a=sendrecv",
      "a=sendonly",
      "a=sendonly",
    ]);
    expect(sdp).toContain("a=group:BUNDLE 0 1 2 3");
    expect(sdp).toContain("a=ssrc-group:FID 3100200301 3100200302");
    expect(sdp.match(/a=candidate/g)).toHaveLength(3);
    expect(sdp).toMatch(/m=video 9 UDP\/TLS\/RTP\/SAVPF 100 96 41 42 /);
    expect(sdp).not.toContain("sdes:mid");
    expect(sdp.endsWith("\r\n")).toBe(true);
  });
  test("cannot smuggle lines into the description", () => {
    const evil = { ...S.JSON_SOURCES, [S.THIRD]: [[], [], [{ s: 3100200999, n: `${S.THIRD}-a0\r\na=evil`, m: "x" }]] };
    expect(offered(S.offer("s", evil)).sources.some((source) => source.owner === S.THIRD)).toBe(false);
    const offer = offered(S.offer().replace("ufrag='b7x01'", "ufrag='b7&#13;&#10;a=evil'"));
    expect(writeRemote(offer, firstSlots(offer), 1, [], offer.transport)).not.toMatch(/^a=evil/m);
  });
});

describe("m-lines", () => {
  const offer = offered();
  const first = planSlots(firstSlots(offer), { sources: offer.sources, share: false });
  test("of sources that went are used again by later ones of the same kind", () => {
    const without = planSlots(first, { sources: [], share: false });
    expect(without.map((slot) => slot.use)).toEqual(["own", "own", "free", "free"]);
    const other = offer.sources.find((source) => source.owner === S.OTHER && source.kind === "audio");
    if (other === undefined) throw new Error();
    const again = planSlots(without, {
      sources: [{ ...other, name: ownAudio(S.THIRD as EndpointId), owner: S.THIRD }],
      share: true,
    });
    expect(again.map((slot) => `${slot.mid}${slot.use}`)).toEqual(["0own", "1own", "2free", "3remote", "4share"]);
  });
  test("never move, whatever comes and goes", () => {
    const grown = planSlots(first, { sources: offer.sources, share: true });
    const shrunk = planSlots(grown, { sources: offer.sources.filter((source) => source.kind === "audio"), share: false });
    expect(shrunk.map((slot) => slot.mid)).toEqual(["0", "1", "2", "3", "4"]);
    expect(shrunk[3]).toEqual(first[3]);
    expect(shrunk[4]?.use).toBe("share");
  });
  test("of a hundred joins and leaves stay as many as the largest crowd needed", () => {
    let slots = firstSlots(offer);
    for (let i = 0; i < 100; i++) {
      const owner = (10_000_000 + i).toString() as EndpointId;
      const source = {
        name: ownCamera(owner),
        owner,
        kind: "video",
        videoType: "camera",
        ssrcs: [3_000_000_000 + i],
        groups: [],
        msid: "",
      } as const;
      slots = planSlots(slots, { sources: [source], share: false });
      slots = planSlots(slots, { sources: [], share: false });
    }
    expect(slots).toHaveLength(3);
  });
});

describe("codecs", () => {
  test("are ordered by preference, each with its retransmissions, the others after them as they were", () => {
    const video = offered().media[1]?.payloads ?? [];
    expect(orderPayloads(video, ["vp9", "VP8"]).map((payload) => payload.id)).toEqual([101, 97, 100, 96, 41, 42, 107, 99]);
  });
});

describe("sources", () => {
  test("in JSON and in XML are the same", () => {
    const xml =
      read(`<jingle xmlns='urn:xmpp:jingle:1' action='source-add' sid='s'><content name='video'><description xmlns='urn:xmpp:jingle:apps:rtp:1' media='video'>
<source xmlns='urn:xmpp:jingle:apps:rtp:ssma:0' ssrc='3100200301' name='${S.OTHER}-v0' videoType='camera'><ssrc-info xmlns='http://jitsi.org/jitmeet' owner='${S.ROOM}/${S.OTHER}'/>
<parameter xmlns='urn:xmpp:jingle:apps:rtp:1' name='msid' value='${S.OTHER}-video-0-1 5b1e-1'/></source>
<source xmlns='urn:xmpp:jingle:apps:rtp:ssma:0' ssrc='3100200302' name='${S.OTHER}-v0'><parameter name='msid' value='${S.OTHER}-video-0-1 5b1e-1'/></source>
<ssrc-group xmlns='urn:xmpp:jingle:apps:rtp:ssma:0' semantics='FID'><source ssrc='3100200301'/><source ssrc='3100200302'/></ssrc-group></description></content></jingle>`);
    const json = offered().sources.filter((source) => source.name === `${S.OTHER}-v0`);
    expect(parseSources(xml)).toEqual(json);
  });
  test("that are malformed are left out, the others are kept", () => {
    const bad = {
      [S.OTHER]: [
        [{ s: 0, n: "a-v0" }, { s: 2 ** 32, n: "b-v0" }, "no", { s: 1234567890, n: "c-v0", v: "d" }],
        [["x", 1, 2], ["f"], 7],
        null,
      ],
    };
    const action = jingle(S.sourceAdd("s", bad));
    expect(action.action === "source-add" && action.sources.map((source) => [source.name, source.videoType])).toEqual([
      ["c-v0", "desktop"],
    ]);
    expect(jingle(S.sourceAdd("s", "text")).action).toBe("source-add");
  });
  test("of the bridge may lack a name", () => {
    const unnamed = {
      jvb: [[{ s: 2345678901, m: "mixedmslabel mixedlabelvideo0" }], [], [{ s: 1234567890, m: "mixedmslabel mixedlabelaudio0" }]],
    };
    expect(offered(S.offer("s", unnamed)).sources.map((source) => source.name)).toEqual(["jvb-v0", "jvb-a0"]);
  });
  test("are received under the first of the SIM group", () => {
    const base = {
      name: ownCamera(self),
      owner: S.SELF,
      kind: "video",
      videoType: "camera",
      msid: "",
      ssrcs: [5, 6, 7, 8],
    } as const;
    expect(
      primarySsrc({
        ...base,
        groups: [
          { semantics: "FID", ssrcs: [6, 7] },
          { semantics: "SIM", ssrcs: [8, 6] },
        ],
      }),
    ).toBe(8);
    expect(primarySsrc({ ...base, groups: [{ semantics: "FID", ssrcs: [6, 7] }] })).toBe(6);
    expect(primarySsrc({ ...base, groups: [] })).toBe(5);
  });
});

describe("an answer", () => {
  let next = 1_000_000_000;
  const munged = addEncodings(S.ANSWER_SDP, "1", () => ++next);
  const lines = [
    { mid: "0", name: ownAudio(self), kind: "audio", videoType: "camera" },
    { mid: "1", name: ownCamera(self), kind: "video", videoType: "camera" },
  ] as const;
  const sources = parseOwnSources(munged, lines, self, "lbl");

  test("names six SSRCs of the camera in one SIM and three FID groups", () => {
    const camera = sources[1];
    expect(camera?.ssrcs).toHaveLength(6);
    expect(camera?.groups.map((group) => group.semantics).sort()).toEqual(["FID", "FID", "FID", "SIM"]);
    const sim = camera?.groups.find((group) => group.semantics === "SIM");
    expect(sim?.ssrcs[0]).toBe(1490956426);
    for (const ssrc of sim?.ssrcs ?? [])
      expect(camera?.groups.filter((group) => group.semantics === "FID" && group.ssrcs[0] === ssrc)).toHaveLength(1);
    for (const group of camera?.groups ?? []) for (const ssrc of group.ssrcs) expect(camera?.ssrcs).toContain(ssrc);
  });
  test("is extended once, and only on the camera's m-line", () => {
    expect(addEncodings(munged, "1", () => ++next)).toBe(munged);
    expect(munged.split("m=video")[0]).toBe(S.ANSWER_SDP.split("m=video")[0]);
    expect(addEncodings(S.ANSWER_SDP, "7", () => ++next)).toBe(S.ANSWER_SDP);
    expect(munged).not.toMatch(/\n\r?\n/);
  });
  test("becomes a session-accept with own sources, credentials and no candidates", () => {
    const answer = parseAnswer(munged, ["0", "1"]);
    if (answer === null) throw new Error();
    const accept = read(
      write(sessionAccept({ sid: "9q0tb1", initiator: "focus@auth.meet.example/focus" }, S.SELF_JID, answer, sources)),
    );
    expect(accept.attrs).toMatchObject({
      action: "session-accept",
      sid: "9q0tb1",
      initiator: "focus@auth.meet.example/focus",
      responder: S.SELF_JID,
    });
    const text = write(accept);
    expect(text).toContain(
      '<source xmlns="urn:xmpp:jingle:apps:rtp:ssma:0" ssrc="2404769321" name="3c1f07aa-a0"><parameter name="msid" value="3c1f07aa-audio-0-1 lbl-a0-1"/></source>',
    );
    expect(text.match(/name="3c1f07aa-v0"/g)).toHaveLength(6);
    expect(text).toContain(
      '<payload-type id="111" name="opus" clockrate="48000" channels="2"><parameter name="minptime" value="10"/><parameter name="useinbandfec" value="1"/>',
    );
    expect(text).toContain('ufrag="Zx7S" pwd="0xTPxvbk/QZL2jLyeDxivp9I"');
    expect(text).toContain('setup="active"');
    expect(text).not.toContain("candidate");
    // What one's own reader makes of it is what was written.
    expect(parseSources(accept).map((source) => source.name)).toEqual(["3c1f07aa-a0", "3c1f07aa-v0"]);
  });
  test("has credentials for an in-place restart", () => {
    const transport = localTransport(S.ANSWER_SDP);
    if (transport === null) throw new Error();
    const info = read(write(transportInfo({ sid: "s", initiator: "i" }, transport, 2)));
    expect(parseJingle(info)).toMatchObject({ action: "transport-info", generation: 2, transport: { ufrag: "Zx7S" } });
  });
});

describe("requests of the client", () => {
  const session = { sid: "s1", initiator: "i" };
  test("ask for an in-place restart and, failing that, for a new session", () => {
    expect(write(iceRestartRequest(session, { id: "b1", region: "" }))).toBe(
      '<jingle xmlns="urn:xmpp:jingle:1" action="session-info" sid="s1" initiator="i"><bridge-session xmlns="http://jitsi.org/protocol/focus" ice-restart="true" id="b1"/></jingle>',
    );
    expect(write(terminateRestart(session, { id: "b1", region: "" }))).toContain(
      '<reason><connectivity-error/><text>ICE FAILED</text></reason><bridge-session xmlns="http://jitsi.org/protocol/focus" id="b1" restart="true"/>',
    );
  });
  test("add a screen as a video source of its own", () => {
    const share = {
      name: `${S.SELF}-v1`,
      owner: S.SELF,
      kind: "video",
      videoType: "desktop",
      ssrcs: [1111111111, 1111111112],
      groups: [{ semantics: "FID", ssrcs: [1111111111, 1111111112] }],
      msid: "m",
    } as const;
    const parsed = parseJingle(read(write(sourceChange("source-add", session, [share as never]))));
    expect(parsed.action === "source-add" && parsed.sources).toEqual([share]);
  });
  test("name the room and the browser to the focus", () => {
    const iq = read(write(conferenceRequest("focus.meet.example", S.ROOM, "u1d")));
    expect(child(iq, "conference")?.attrs).toEqual({ room: S.ROOM, "machine-uid": "u1d" });
  });
  test("understand what the focus answers", () => {
    expect(parseConferenceAnswer(read(S.CONFERENCE_READY))).toEqual({ kind: "ready", focusJid: "focus@auth.meet.example" });
    expect(parseConferenceAnswer(read(S.CONFERENCE_READY.replace("'true'", "'false'"))).kind).toBe("not-ready");
    expect(parseConferenceAnswer(read(S.failure("not-authorized"))).kind).toBe("wait");
    expect(parseConferenceAnswer(read(S.failure("forbidden"))).kind).toBe("refused");
  });
});

describe("presence", () => {
  const states = new Map([
    [ownAudio(self), { muted: true, videoType: "camera" }],
    [`${S.SELF}-v1`, { muted: false, videoType: "desktop" }],
  ] as never) as ReadonlyMap<never, never>;
  test("tells of own sources as JSON and names the codecs", () => {
    const written = read(
      write(writePresence(`${S.ROOM}/${S.SELF}`, { name: "Ada", codecs: ["vp8", "av1"], sources: states }, { password: "" })),
    );
    expect(written.nodes.map((node) => (typeof node === "string" ? node : node.name))).toEqual([
      "x",
      "c",
      "SourceInfo",
      "jitsi_participant_codecList",
      "nick",
    ]);
    expect(write(written)).toContain(
      "{&quot;3c1f07aa-a0&quot;:{&quot;muted&quot;:true},&quot;3c1f07aa-v1&quot;:{&quot;muted&quot;:false,&quot;videoType&quot;:&quot;desktop&quot;}}",
    );
    expect(child(read(write(writePresence("r/n", { name: "", codecs: [], sources: new Map() }, null))), "x")).toBeUndefined();
    const locked = writePresence("r/n", { name: "", codecs: [], sources: new Map() }, { password: "4<11" });
    expect(write(locked)).toContain("<password>4&lt;11</password></x>");
  });
  test("of others is read, and nobody speaks for another", () => {
    const info = {
      [`${S.OTHER}-a0`]: { muted: false },
      [`${S.THIRD}-a0`]: { muted: true },
      [`${S.OTHER}-v1`]: { muted: false, videoType: "desktop" },
    };
    const parsed = parsePresence(read(S.presence(S.OTHER, S.NICK(" Bo ") + S.SOURCE_INFO(info))));
    if (parsed?.kind !== "present") throw new Error();
    expect(parsed.occupant.name).toBe("Bo");
    expect([...parsed.occupant.sources]).toEqual([
      [`${S.OTHER}-a0`, { muted: false, videoType: "camera" }],
      [`${S.OTHER}-v1`, { muted: false, videoType: "desktop" }],
    ]);
  });
  test("of older clients is read from its elements", () => {
    const parsed = parsePresence(read(S.presence(S.OTHER, "<audiomuted>true</audiomuted><videomuted>false</videomuted>")));
    expect(parsed?.kind === "present" && [...parsed.occupant.sources.values()].map((state) => state.muted)).toEqual([true, false]);
  });
  test("with broken SourceInfo says nothing of sources", () => {
    for (const broken of ["<SourceInfo>{</SourceInfo>", "<SourceInfo>[]</SourceInfo>", "<SourceInfo>null</SourceInfo>"]) {
      const parsed = parsePresence(read(S.presence(S.OTHER, broken)));
      expect(parsed?.kind === "present" && parsed.occupant.sources.size).toBe(0);
    }
  });
  test.each([
    ["not-authorized", "password"],
    ["service-unavailable", "full"],
    ["registration-required", "members-only"],
    ["conflict", "conflict"],
    ["not-allowed", "not-allowed"],
    ["forbidden", "banned"],
    ["policy-violation", "other"],
  ])("error %s means %s", (condition, why) => {
    const error = `<presence xmlns='jabber:client' type='error' from='${S.ROOM}/x'><error type='cancel'><${condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></presence>`;
    expect(parsePresence(read(error))).toEqual({ kind: "refused", why });
  });
});

describe("messages", () => {
  test("are chat with who said it", () => {
    const echoed = read(write(writeChat(S.ROOM, "m1", "1 < 2"))).nodes;
    expect(echoed).toHaveLength(1);
    const heard = parseChat(
      read(
        `<message xmlns='jabber:client' type='groupchat' id='m1' from='${S.ROOM}/${S.OTHER}'><body>1 &lt; 2</body><delay xmlns='urn:xmpp:delay' stamp='2026-01-02T03:04:05Z'/></message>`,
      ),
    );
    expect(heard).toEqual({ id: "m1", from: S.OTHER, body: "1 < 2", stamp: Date.UTC(2026, 0, 2, 3, 4, 5), isPrivate: false });
  });
  test("that are subjects, reactions or the room's own are no chat", () => {
    expect(parseChat(read(`<message xmlns='jabber:client' type='groupchat' from='${S.ROOM}'><subject/></message>`))).toBeNull();
    expect(
      parseChat(
        read(
          `<message xmlns='jabber:client' type='groupchat' from='${S.ROOM}/${S.OTHER}'><reactions xmlns='urn:xmpp:reactions:0' id='m1'/><body>x</body></message>`,
        ),
      ),
    ).toBeNull();
  });
  test("of metadata bring the relays", () => {
    const json = JSON.stringify({
      type: "room_metadata",
      metadata: {
        services: [
          { type: "stun", host: "s" },
          { type: "turns", host: "t.example", port: 443, transport: "tcp", username: "u", password: "p" },
        ],
      },
    });
    expect(
      parseServices(
        read(
          `<message xmlns='jabber:client' from='metadata.meet.example'><json-message xmlns='http://jitsi.org/jitmeet'>${json.replace(/"/g, "&quot;")}</json-message></message>`,
        ),
      ),
    ).toEqual([{ urls: "turns:t.example:443?transport=tcp", username: "u", credential: "p" }]);
    expect(
      parseServices(
        read(
          `<message xmlns='jabber:client'><json-message xmlns='http://jitsi.org/jitmeet'>{"type":"polls"}</json-message></message>`,
        ),
      ),
    ).toBeNull();
  });
});

describe("the bridge channel", () => {
  test("is read", () => {
    expect(
      parseBridgeMessage(
        '{"colibriClass":"DominantSpeakerEndpointChangeEvent","dominantSpeakerEndpoint":"77aa01fe","previousSpeakers":[],"silence":false}',
      ),
    ).toEqual({ kind: "dominant", endpoint: "77aa01fe", silence: false });
    expect(parseBridgeMessage('{"colibriClass":"ForwardedSources","forwardedSources":["77aa01fe-v0"]}')).toEqual({
      kind: "forwarded",
      sources: new Set(["77aa01fe-v0"]),
    });
    expect(parseBridgeMessage('{"colibriClass":"SenderSourceConstraints","sourceName":"3c1f07aa-v0","maxHeight":360}')).toEqual({
      kind: "sender-limit",
      source: "3c1f07aa-v0",
      maxHeight: 360,
    });
    expect(
      parseBridgeMessage('{"colibriClass":"EndpointConnectivityStatusChangeEvent","endpoint":"9be22d10","active":"false"}'),
    ).toEqual({ kind: "connectivity", endpoint: "9be22d10", active: false });
  });
  test.each([
    "",
    "nonsense",
    "null",
    "[]",
    '{"colibriClass":"ServerHello"}',
    '{"colibriClass":"EndpointMessage","msgPayload":{}}',
    '{"colibriClass":"ForwardedSources"}',
  ])("ignores %j", (text) => {
    expect(parseBridgeMessage(text)).toBeNull();
  });
  test("is told whole wishes", () => {
    const wish = {
      lastN: -1,
      onStage: [],
      selected: ["c-v1"],
      heights: new Map([
        ["b-v0", 720],
        ["a-v0", 180],
      ] as never),
      defaultMaxHeight: 180,
    } as never;
    expect(constraintsMessage(wish)).toBe(
      '{"colibriClass":"ReceiverVideoConstraints","lastN":-1,"onStageSources":[],"selectedSources":["c-v1"],"defaultConstraints":{"maxHeight":180},"constraints":{"a-v0":{"maxHeight":180},"b-v0":{"maxHeight":720}}}',
    );
    expect(videoTypeMessage(ownCamera(self), "none")).toBe(
      '{"colibriClass":"SourceVideoTypeMessage","sourceName":"3c1f07aa-v0","videoType":"none"}',
    );
    expect(
      JSON.parse(
        statsMessage({
          downloadKbps: 900,
          uploadKbps: 1,
          lossDownload: 5,
          lossUpload: 0,
          rttMs: 12,
          maxHeight: 720,
          region: "eu1",
        }),
      ),
    ).toMatchObject({ connectionQuality: 50, jvbRTT: 12 });
  });
});
