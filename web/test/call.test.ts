/** The call against whole courses of a meeting: joining, media, trouble, leaving. */

import { describe, expect, test } from "vitest";
import { ownAudio, ownCamera, ownShare, type EndpointId, type RoomName, type Source, type SourceName } from "../src/model";
import { idle, nickOf, step } from "../src/call/step";
import { isInRoom, type Call, type CallEvent, type Effect, type Room } from "../src/call/state";
import { tilesOf } from "../src/call/tiles";
import { parseAnswer, parseOwnSources, addEncodings } from "../src/wire/local-sdp";
import { write } from "../src/wire/xml";
import { shapeEncodings } from "../src/media/encodings";
import { read } from "./read";
import * as S from "./stanzas";

const self = S.SELF as EndpointId;
const other = S.OTHER as EndpointId;

/** A call and everything that it has asked for so far. */
class Meeting {
  call: Call = idle({
    place: {
      room: "standup" as RoomName,
      roomJid: S.ROOM,
      focus: "focus.meet.example",
      machineUid: "uid",
      hiddenDomain: "hidden.meet.example",
    },
    name: "Ada",
    codecs: ["vp8"],
  });
  effects: Effect[] = [];

  do(event: CallEvent): this {
    const next = step(this.call, event);
    this.call = next.call;
    this.effects = [...next.effects];
    return this;
  }
  hear(text: string): this {
    return this.do({ kind: "stanza", stanza: read(text), at: 1000 });
  }
  get room(): Room {
    if (!isInRoom(this.call)) throw new Error(this.call.kind);
    return this.call;
  }
  kinds(): readonly string[] {
    return this.effects.map((effect) => effect.kind);
  }
  /** Stanzas that the last event sent. */
  sent(): readonly string[] {
    return this.effects.flatMap((effect) => (effect.kind === "send" || effect.kind === "request" ? [write(effect.stanza)] : []));
  }
  told(): readonly unknown[] {
    return this.effects.flatMap((effect) => (effect.kind === "tell-bridge" ? [JSON.parse(effect.text) as unknown] : []));
  }
  notices(): readonly string[] {
    return this.effects.flatMap((effect) => (effect.kind === "notice" ? [effect.notice.kind] : []));
  }

  enter(): this {
    this.do({ kind: "join", name: "Ada" }).do({ kind: "link-up", jid: S.SELF_JID, resumed: false, nick: self });
    this.do({ kind: "answer", tag: { of: "conference" }, iq: read(S.CONFERENCE_READY) });
    return this.hear(S.FOCUS_PRESENCE).hear(S.SELF_PRESENCE);
  }
  answerOffer(sid = "9q0tb1"): this {
    const answer = parseAnswer(S.ANSWER_SDP, ["0", "1"]);
    if (answer === null) throw new Error();
    return this.do({ kind: "answered", sid, answer, sources: ownSources() });
  }
  withMedia(): this {
    this.enter()
      .hear(S.presence(S.OTHER, S.NICK("Bo")))
      .hear(S.offer())
      .answerOffer();
    this.do({ kind: "answer", tag: { of: "accept", sid: "9q0tb1" }, iq: read(S.result()) });
    return this.do({ kind: "ice", sid: "9q0tb1", state: "connected" }).do({ kind: "channel", open: true });
  }
}

function ownSources(share = false): readonly Source[] {
  let next = 1_000_000_000;
  const lines = [
    { mid: "0", name: ownAudio(self), kind: "audio", videoType: "camera" },
    { mid: "1", name: ownCamera(self), kind: "video", videoType: "camera" },
  ] as const;
  const sources = parseOwnSources(
    addEncodings(S.ANSWER_SDP, "1", () => ++next),
    lines,
    self,
    "l",
  );
  const screen: Source = {
    name: ownShare(self),
    owner: S.SELF,
    kind: "video",
    videoType: "desktop",
    ssrcs: [2222222221],
    groups: [],
    msid: "m",
  };
  return share ? [...sources, screen] : sources;
}

describe("joining", () => {
  test("asks the focus, then enters the room under the first digits of the address", () => {
    const meeting = new Meeting().do({ kind: "join", name: "  Ada   Lovelace " });
    expect(meeting.kinds()).toEqual(["connect"]);
    meeting.do({ kind: "link-up", jid: S.SELF_JID, resumed: false, nick: nickOf(S.SELF_JID) ?? other });
    expect(meeting.sent()[0]).toContain("<conference");
    meeting.do({ kind: "answer", tag: { of: "conference" }, iq: read(S.CONFERENCE_READY) });
    expect(meeting.sent()[0]).toContain(`to="${S.ROOM}/${S.SELF}"`);
    expect(meeting.sent()[0]).toContain('<x xmlns="http://jabber.org/protocol/muc"/>');
    expect(meeting.sent()[0]).toContain("<SourceInfo>{}</SourceInfo>");
    expect(meeting.sent()[0]).toContain(">Ada Lovelace</nick>");
    meeting.hear(S.FOCUS_PRESENCE).hear(S.SELF_PRESENCE);
    expect(meeting.call.kind).toBe("in");
    expect(meeting.room.endpoints.size).toBe(0);
  });
  test("waits while the conference is prepared, longer each time", () => {
    const meeting = new Meeting()
      .do({ kind: "join", name: "" })
      .do({ kind: "link-up", jid: S.SELF_JID, resumed: false, nick: self });
    const notReady = read(S.CONFERENCE_READY.replace("'true'", "'false'"));
    const pauses = [0, 1, 2].map(() => {
      const [effect] = meeting.do({ kind: "answer", tag: { of: "conference" }, iq: notReady }).effects;
      expect(meeting.do({ kind: "timer", timer: "ask-again" }).sent()[0]).toContain("<conference");
      return effect?.kind === "timer" ? effect.ms : 0;
    });
    expect(pauses).toEqual([1000, 2000, 4000]);
  });
  test("tells why it was refused", () => {
    const meeting = new Meeting()
      .do({ kind: "join", name: "" })
      .do({ kind: "link-up", jid: S.SELF_JID, resumed: false, nick: self });
    meeting.do({ kind: "answer", tag: { of: "conference" }, iq: read(S.CONFERENCE_READY) });
    meeting.hear(
      `<presence xmlns='jabber:client' type='error' from='${S.ROOM}/${S.SELF}'><error type='wait'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></presence>`,
    );
    expect(meeting.call).toMatchObject({ kind: "left", why: { kind: "refused", why: "full" } });
    expect(meeting.kinds()).toContain("release-devices");
  });
  test("asks for the password for as long as it is wrong, and keeps what was right", () => {
    const refusal = `<presence xmlns='jabber:client' type='error' from='${S.ROOM}/${S.SELF}'><error type='auth'><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></presence>`;
    const ready = { kind: "answer", tag: { of: "conference" }, iq: read(S.CONFERENCE_READY) } as const;
    const meeting = new Meeting()
      .do({ kind: "join", name: "" })
      .do({ kind: "link-up", jid: S.SELF_JID, resumed: false, nick: self })
      .do(ready);
    expect(meeting.sent()[0]).not.toContain("<password>");
    expect(meeting.hear(refusal).call).toMatchObject({ kind: "locked", wrong: false });
    expect(meeting.kinds()).toEqual([]);
    meeting.do({ kind: "unlock", password: "guess" });
    expect(meeting.sent()[0]).toContain("<conference");
    expect(meeting.do(ready).sent()[0]).toContain("<password>guess</password>");
    expect(meeting.hear(refusal).call).toMatchObject({ kind: "locked", wrong: true });
    // The connection may come back while the person thinks.
    meeting.do({ kind: "link-lost" }).do({ kind: "link-up", jid: S.SELF_JID, resumed: true, nick: self });
    expect(meeting.call.kind).toBe("locked");
    meeting.do({ kind: "unlock", password: "4711" }).do(ready).hear(S.FOCUS_PRESENCE).hear(S.SELF_PRESENCE);
    expect(meeting.call.kind).toBe("in");
    // Joining anew after a break needs no person.
    meeting.do({ kind: "link-failed" }).do({ kind: "link-up", jid: S.SELF_JID, resumed: false, nick: self }).do(ready);
    expect(meeting.sent()[0]).toContain("<password>4711</password>");
    expect(new Meeting().do({ kind: "unlock", password: "x" }).effects).toEqual([]);
  });
  test("ends in words when the server does not answer", () => {
    expect(new Meeting().do({ kind: "join", name: "" }).do({ kind: "link-failed" }).call).toMatchObject({
      kind: "left",
      why: { kind: "unreachable" },
    });
  });
  test("an error to a later presence does not end the stay", () => {
    const error = `<presence xmlns='jabber:client' type='error' from='${S.ROOM}/${S.SELF}'><error type='wait'><resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></presence>`;
    expect(new Meeting().enter().hear(error).call.kind).toBe("in");
  });
});

describe("requests of others", () => {
  test("for features are answered with the list", () => {
    const meeting = new Meeting()
      .enter()
      .hear(
        `<iq xmlns='jabber:client' type='get' id='d1' from='${S.FOCUS}'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>`,
      );
    expect(meeting.sent()[0]).toContain('id="d1"');
    expect(meeting.sent()[0]).toContain("json-encoded-sources");
  });
  test("that nobody knows are refused, each with an answer", () => {
    for (const type of ["get", "set"]) {
      const sent = new Meeting()
        .enter()
        .hear(`<iq xmlns='jabber:client' type='${type}' id='u1' from='x@y/z'><what xmlns='urn:x'/></iq>`)
        .sent();
      expect(sent[0]).toContain('type="error"');
      expect(sent[0]).toContain("service-unavailable");
    }
  });
  test("for a direct session are declined", () => {
    const meeting = new Meeting().enter().hear(S.offer("p1").replaceAll(S.FOCUS, `${S.ROOM}/${S.OTHER}`));
    expect(meeting.sent()[0]).toContain('type="result"');
    expect(meeting.sent()[1]).toContain("<decline/>");
    expect(meeting.room.session).toBeNull();
  });
  test("to mute come from the focus only", () => {
    const mute = (from: string): string =>
      `<iq xmlns='jabber:client' type='set' id='m1' from='${from}'><mute xmlns='http://jitsi.org/jitmeet/audio' actor='${S.ROOM}/${S.OTHER}'>true</mute></iq>`;
    const meeting = new Meeting()
      .enter()
      .do({ kind: "toggle", device: "microphone" })
      .do({ kind: "device", device: "microphone", state: { kind: "on" } });
    expect(meeting.hear(mute(`${S.ROOM}/${S.OTHER}`)).room.devices.microphone.kind).toBe("on");
    expect(meeting.hear(mute(S.FOCUS)).room.devices.microphone.kind).toBe("off");
    expect(meeting.notices()).toEqual(["muted-by-other"]);
  });
});

describe("the media session", () => {
  test("is opened, accepted, and then told of in presence", () => {
    const meeting = new Meeting().enter().hear(S.presence(S.OTHER)).hear(S.offer());
    expect(meeting.kinds()).toEqual(["send", "open-session", "remote-sources"]);
    expect(meeting.sent()[0]).toContain('type="result"');
    meeting.answerOffer();
    expect(meeting.sent()[0]).toContain('action="session-accept"');
    expect(meeting.sent()[0]).toContain(`responder="${S.SELF_JID}"`);
    meeting.do({ kind: "answer", tag: { of: "accept", sid: "9q0tb1" }, iq: read(S.result()) });
    expect(meeting.sent()[0]).toContain(
      "{&quot;3c1f07aa-a0&quot;:{&quot;muted&quot;:true},&quot;3c1f07aa-v0&quot;:{&quot;muted&quot;:true}}",
    );
  });
  test("takes sources in and gives them back", () => {
    const meeting = new Meeting().withMedia();
    const added = { [S.THIRD]: [[], [], [{ s: 3300200401, n: `${S.THIRD}-a0`, m: "m" }]] };
    meeting.hear(S.sourceAdd("9q0tb1", added));
    expect([...(meeting.room.session?.remote.keys() ?? [])]).toEqual([`${S.OTHER}-v0`, `${S.OTHER}-a0`, `${S.THIRD}-a0`]);
    meeting.hear(S.sourceAdd("9q0tb1", added, "source-remove"));
    expect([...(meeting.room.session?.remote.keys() ?? [])]).toEqual([`${S.OTHER}-v0`, `${S.OTHER}-a0`]);
  });
  test("never plays one's own sources back", () => {
    const meeting = new Meeting()
      .enter()
      .hear(S.offer("s", { [S.SELF]: [[], [], [{ s: 1444444444, n: `${S.SELF}-a0`, m: "m" }]] }));
    expect(meeting.effects.some((effect) => effect.kind === "remote-sources")).toBe(false);
  });
  test("with an unknown id is answered so", () => {
    const meeting = new Meeting().withMedia().hear(S.sourceAdd("stale", {}));
    expect(meeting.sent()[0]).toContain("<unknown-session");
    expect(meeting.sent()[0]?.indexOf("item-not-found")).toBeLessThan(meeting.sent()[0]?.indexOf("unknown-session") ?? 0);
  });
  test("loses the sources of who leaves the room, though nobody removes them", () => {
    const meeting = new Meeting()
      .withMedia()
      .hear(
        `<presence xmlns='jabber:client' type='unavailable' from='${S.ROOM}/${S.OTHER}'><x xmlns='http://jabber.org/protocol/muc#user'><item affiliation='none' role='none'/></x></presence>`,
      );
    expect(meeting.effects.find((effect) => effect.kind === "remote-sources")).toMatchObject({ sources: [] });
    expect(meeting.notices()).toEqual(["left"]);
    expect(tilesOf(meeting.room).map((tile) => tile.endpoint)).toEqual([S.SELF]);
  });
  test("is replaced after a move", () => {
    const meeting = new Meeting().withMedia();
    meeting.hear(
      `<iq xmlns='jabber:client' type='set' id='t' from='${S.FOCUS}'><jingle xmlns='urn:xmpp:jingle:1' action='session-terminate' sid='9q0tb1'><reason><success/><text>moving</text></reason></jingle></iq>`,
    );
    expect(meeting.kinds()).toContain("close-session");
    expect(meeting.room.session).toBeNull();
    expect(meeting.hear(S.offer("second")).room.session?.ref.sid).toBe("second");
    // A late answer of the first has no say.
    expect(meeting.answerOffer("9q0tb1").room.session?.accept).toBe("answering");
  });
  test("signals a share when its SSRCs are there, and takes nothing back when it stops", () => {
    const meeting = new Meeting().withMedia().do({ kind: "toggle", device: "screen" });
    expect(meeting.effects).toContainEqual({ kind: "device", device: "screen", on: true });
    meeting.do({ kind: "device", device: "screen", state: { kind: "on" } });
    meeting.do({ kind: "local-sources", sid: "9q0tb1", sources: ownSources(true) });
    expect(meeting.sent()[0]).toContain('action="source-add"');
    expect(meeting.sent()[0]).toContain(`name="${S.SELF}-v1"`);
    expect(meeting.sent()[0]).not.toContain(`name="${S.SELF}-v0"`);
    expect(meeting.sent()[1]).toContain(
      "&quot;3c1f07aa-v1&quot;:{&quot;muted&quot;:false,&quot;videoType&quot;:&quot;desktop&quot;}",
    );
    expect(meeting.told()).toContainEqual({
      colibriClass: "SourceVideoTypeMessage",
      sourceName: `${S.SELF}-v1`,
      videoType: "desktop",
    });
    meeting.do({ kind: "toggle", device: "screen" });
    expect(meeting.sent().some((stanza) => stanza.includes("jingle"))).toBe(false);
    expect(meeting.sent()[0]).toContain(
      "&quot;3c1f07aa-v1&quot;:{&quot;muted&quot;:true,&quot;videoType&quot;:&quot;desktop&quot;}",
    );
    expect(meeting.told()).toContainEqual({
      colibriClass: "SourceVideoTypeMessage",
      sourceName: `${S.SELF}-v1`,
      videoType: "none",
    });
  });
  test("that the server does not accept is tried once more as a new stay", () => {
    const meeting = new Meeting()
      .enter()
      .hear(S.offer())
      .answerOffer()
      .do({ kind: "answer", tag: { of: "accept", sid: "9q0tb1" }, iq: null });
    expect(meeting.call.kind).toBe("connecting");
    expect(meeting.kinds()).toContain("connect");
    meeting
      .do({ kind: "link-up", jid: S.SELF_JID, resumed: false, nick: self })
      .do({ kind: "answer", tag: { of: "conference" }, iq: read(S.CONFERENCE_READY) })
      .hear(S.SELF_PRESENCE);
    meeting
      .hear(S.offer())
      .answerOffer()
      .do({ kind: "answer", tag: { of: "accept", sid: "9q0tb1" }, iq: read(S.failure("bad-request")) });
    expect(meeting.call).toMatchObject({ kind: "left", why: { kind: "no-media" } });
  });
});

describe("a broken media path", () => {
  test("gets new credentials in place after a few seconds", () => {
    const meeting = new Meeting().withMedia().do({ kind: "ice", sid: "9q0tb1", state: "interrupted" });
    expect(meeting.effects).toEqual([{ kind: "timer", timer: "ice-restart", ms: 4000 }]);
    meeting.do({ kind: "timer", timer: "ice-restart" });
    expect(meeting.sent()[0]).toContain('ice-restart="true"');
    meeting.hear(`<iq xmlns='jabber:client' type='set' id='t' from='${S.FOCUS}'><jingle xmlns='urn:xmpp:jingle:1' action='transport-info' sid='9q0tb1'><content name='audio' creator='initiator'>
<transport xmlns='urn:xmpp:jingle:transports:ice-udp:1' ufrag='new' pwd='newpassword' ice-generation='1'/></content></jingle></iq>`);
    expect(meeting.effects[1]).toMatchObject({ kind: "restart-ice", generation: 1, transport: { ufrag: "new" } });
    meeting.do({
      kind: "restarted",
      sid: "9q0tb1",
      generation: 1,
      transport: { ufrag: "mine", pwd: "p", fingerprint: null, candidates: [] },
    });
    expect(meeting.sent()[0]).toContain('ufrag="mine" pwd="p" ice-generation="1"');
    meeting.do({ kind: "ice", sid: "9q0tb1", state: "connected" });
    expect(meeting.room.restarts).toBe(0);
  });
  test("that comes back by itself is left alone", () => {
    const meeting = new Meeting()
      .withMedia()
      .do({ kind: "ice", sid: "9q0tb1", state: "interrupted" })
      .do({ kind: "ice", sid: "9q0tb1", state: "connected" });
    expect(meeting.kinds()).toEqual(["cancel", "cancel"]);
    expect(meeting.do({ kind: "timer", timer: "ice-restart" }).effects).toEqual([]);
  });
  test("that an in-place restart does not mend gets a new session", () => {
    for (const refuse of [
      (meeting: Meeting) => meeting.do({ kind: "timer", timer: "ice-recovery" }),
      (meeting: Meeting) =>
        meeting.do({ kind: "answer", tag: { of: "ice-restart", sid: "9q0tb1" }, iq: read(S.failure("feature-not-implemented")) }),
    ]) {
      const meeting = refuse(new Meeting().withMedia().do({ kind: "ice", sid: "9q0tb1", state: "failed" }));
      expect(meeting.sent()[0]).toContain('id="8c0a4f52" restart="true"');
      expect(meeting.kinds()).toContain("close-session");
    }
  });
  test("waits for the signalling socket before asking", () => {
    const meeting = new Meeting().withMedia().do({ kind: "link-lost" }).do({ kind: "ice", sid: "9q0tb1", state: "failed" });
    expect(meeting.kinds()).toEqual(["timer"]);
    meeting.do({ kind: "link-up", jid: S.SELF_JID, resumed: true, nick: self }).do({ kind: "timer", timer: "ice-restart" });
    expect(meeting.sent()[0]).toContain('ice-restart="true"');
  });
});

describe("a lost socket", () => {
  test("leaves media alone, and presence is said again when it is back", () => {
    const meeting = new Meeting().withMedia().do({ kind: "link-lost" });
    expect(meeting.effects).toEqual([]);
    expect(meeting.room.link).toBe("lost");
    expect(meeting.room.session).not.toBeNull();
    meeting.do({ kind: "link-up", jid: S.SELF_JID, resumed: true, nick: self });
    expect(meeting.sent()[0]).toContain("<SourceInfo>");
    expect(meeting.notices()).toEqual(["back"]);
    expect(meeting.call.kind).toBe("in");
  });
  test("that cannot be resumed leads to one new stay, with what was not said yet", () => {
    const meeting = new Meeting().withMedia().do({ kind: "link-lost" }).do({ kind: "say", body: "hello", id: "m1", at: 1 });
    meeting.do({ kind: "link-failed" });
    expect(meeting.kinds().filter((kind) => ["connect", "close-session"].includes(kind))).toEqual(["close-session", "connect"]);
    meeting
      .do({ kind: "link-up", jid: S.SELF_JID, resumed: false, nick: self })
      .do({ kind: "answer", tag: { of: "conference" }, iq: read(S.CONFERENCE_READY) });
    meeting.hear(S.SELF_PRESENCE);
    expect(meeting.sent()).toEqual([
      `<message xmlns="jabber:client" to="${S.ROOM}" type="groupchat" id="m1"><body>hello</body></message>`,
    ]);
    expect(meeting.do({ kind: "link-failed" }).call).toMatchObject({ kind: "left", why: { kind: "lost" } });
  });
  test("may be mended again after a while", () => {
    const meeting = new Meeting()
      .withMedia()
      .do({ kind: "link-failed" })
      .do({ kind: "link-up", jid: S.SELF_JID, resumed: false, nick: self });
    meeting.do({ kind: "answer", tag: { of: "conference" }, iq: read(S.CONFERENCE_READY) }).hear(S.SELF_PRESENCE);
    meeting.do({ kind: "timer", timer: "settled" });
    expect(meeting.do({ kind: "link-failed" }).call.kind).toBe("connecting");
  });
});

describe("leaving", () => {
  test("says goodbye, closes everything and lets go of the devices", () => {
    const meeting = new Meeting()
      .withMedia()
      .do({ kind: "toggle", device: "camera" })
      .do({ kind: "device", device: "camera", state: { kind: "on" } });
    meeting.do({ kind: "leave" });
    const goodbye = meeting.effects.find((effect) => effect.kind === "disconnect");
    expect(goodbye?.kind === "disconnect" && goodbye.last.map((stanza) => write(stanza))).toEqual([
      `<presence xmlns="jabber:client" to="${S.ROOM}/${S.SELF}" type="unavailable"/>`,
    ]);
    expect(meeting.kinds()).toContain("close-session");
    expect(meeting.kinds().at(-1)).toBe("release-devices");
    // Coming back switches on again what was on.
    expect(meeting.do({ kind: "join", name: "Ada" }).effects).toEqual([
      { kind: "device", device: "camera", on: true },
      { kind: "connect", fresh: true },
    ]);
  });
  test("is also being sent away", () => {
    const gone = (inner: string): string =>
      `<presence xmlns='jabber:client' type='unavailable' from='${S.ROOM}/${S.SELF}'><x xmlns='http://jabber.org/protocol/muc#user'>${inner}</x></presence>`;
    const kicked = new Meeting()
      .enter()
      .hear(gone("<status code='307'/><item role='none'><reason>bye</reason></item><status code='110'/>"));
    expect(kicked.call).toMatchObject({ kind: "left", why: { kind: "kicked", text: "bye" } });
    const ended = new Meeting().enter().hear(gone("<item role='none'/><destroy><reason>over</reason></destroy>"));
    expect(ended.call).toMatchObject({ kind: "left", why: { kind: "ended", text: "over" } });
    const moved = new Meeting().enter().hear(gone(`<item role='none'/><destroy jid='${S.ROOM}'/>`));
    expect(moved.call.kind).toBe("connecting");
  });
});

describe("devices", () => {
  test("that fail are told of, and the meeting goes on", () => {
    const missing: CallEvent = { kind: "device", device: "camera", state: { kind: "trouble", trouble: "missing" } };
    expect(new Meeting().enter().do({ kind: "toggle", device: "camera" }).do(missing).notices()).toEqual(["trouble"]);
    const before = new Meeting().do({ kind: "toggle", device: "camera" }).do(missing);
    expect(before.notices()).toEqual([]);
    expect(before.do({ kind: "join", name: "" }).call).toMatchObject({
      kind: "connecting",
      devices: { camera: { kind: "trouble", trouble: "missing" } },
    });
  });
  test("switched off while they start stay off", () => {
    const meeting = new Meeting()
      .do({ kind: "toggle", device: "camera" })
      .do({ kind: "toggle", device: "camera" })
      .do({ kind: "device", device: "camera", state: { kind: "on" } });
    expect(meeting.call.devices.camera.kind).toBe("off");
  });
  test("change presence and what the bridge is told", () => {
    const meeting = new Meeting().withMedia().do({ kind: "toggle", device: "camera" });
    expect(meeting.kinds()).toEqual(["device"]);
    meeting.do({ kind: "device", device: "camera", state: { kind: "on" } });
    expect(meeting.told()).toEqual([{ colibriClass: "SourceVideoTypeMessage", sourceName: `${S.SELF}-v0`, videoType: "camera" }]);
    expect(meeting.sent()[0]).toContain("&quot;3c1f07aa-v0&quot;:{&quot;muted&quot;:false}");
  });
  test("a screen is not chosen before the meeting", () => {
    expect(new Meeting().do({ kind: "toggle", device: "screen" }).effects).toEqual([]);
  });
});

describe("chat", () => {
  const message = (from: string, id: string, body: string, extra = ""): string =>
    `<message xmlns='jabber:client' type='groupchat' id='${id}' from='${S.ROOM}/${from}'><body>${body}</body>${extra}</message>`;
  test("is pending until the room passes it on", () => {
    const meeting = new Meeting().enter().do({ kind: "say", body: " hi ", id: "m1", at: 5 });
    expect(meeting.room.chat).toMatchObject([{ body: "hi", pending: true, own: true }]);
    meeting.hear(message(S.SELF, "m1", "hi"));
    expect(meeting.room.chat).toMatchObject([{ body: "hi", pending: false }]);
    expect(meeting.effects).toEqual([]);
  });
  test("of others is news, history is not, and nothing is heard twice", () => {
    const meeting = new Meeting().enter().hear(S.presence(S.OTHER, S.NICK("Bo")));
    expect(meeting.hear(message(S.OTHER, "m2", "hey")).notices()).toEqual(["chat"]);
    expect(
      meeting.hear(message(S.OTHER, "m3", "old", "<delay xmlns='urn:xmpp:delay' stamp='2026-01-02T03:04:05Z'/>")).notices(),
    ).toEqual([]);
    meeting.hear(message(S.OTHER, "m2", "hey"));
    expect(meeting.room.chat.map((line) => [line.name, line.body])).toEqual([
      ["Bo", "hey"],
      ["Bo", "old"],
    ]);
  });
  test("that is empty is not said", () => {
    expect(new Meeting().enter().do({ kind: "say", body: "  \n", id: "m", at: 1 }).effects).toEqual([]);
  });
});

describe("the sound of a screen", () => {
  test("goes out as the own voice, with the microphone off, too", () => {
    const meeting = new Meeting().withMedia().do({ kind: "toggle", device: "screen" });
    const own = (): string => meeting.sent().at(-1) ?? "";
    meeting.do({ kind: "device", device: "screen", state: { kind: "on", sound: true } });
    expect(own()).toContain(`${S.SELF}-a0&quot;:{&quot;muted&quot;:false`);
    meeting.do({ kind: "toggle", device: "screen" });
    expect(own()).toContain(`${S.SELF}-a0&quot;:{&quot;muted&quot;:true`);
    meeting.do({ kind: "toggle", device: "screen" }).do({ kind: "device", device: "screen", state: { kind: "on" } });
    expect(own()).toContain(`${S.SELF}-a0&quot;:{&quot;muted&quot;:true`);
  });
});

describe("the encodings of a camera", () => {
  const shape = async (maxHeight: number, lines = 720, count = 3): Promise<readonly (number | boolean)[]> => {
    const parameters = { encodings: Array.from({ length: count }, (): RTCRtpEncodingParameters => ({})) };
    const sender = {
      track: { getSettings: () => ({ height: lines }) },
      getParameters: () => parameters,
      setParameters: () => Promise.resolve(),
    };
    await shapeEncodings(sender as unknown as RTCRtpSender, count === 1 ? "screen" : "camera", maxHeight);
    return parameters.encodings.map((encoding) => (encoding.active === true ? (encoding.maxBitrate ?? 0) / 1000 : false));
  };
  test("go off from the top as the bridge needs less, and cost what their lines are worth", async () => {
    expect(await shape(-1)).toEqual([160, 500, 1500]);
    expect(await shape(720)).toEqual([160, 500, 1500]);
    expect(await shape(360)).toEqual([160, 500, false]);
    expect(await shape(180)).toEqual([160, false, false]);
    expect(await shape(0)).toEqual([false, false, false]);
    // Of a small camera the lowest one stays, although it has less than was asked for; and what is a thumbnail costs as much as one.
    expect(await shape(180, 480)).toEqual([160, false, false]);
    expect(await shape(-1, 360)).toEqual([160, 160, 500]);
    expect(await shape(360, 720, 1)).toEqual([2500]);
    expect(await shape(0, 720, 1)).toEqual([false]);
  });
});

describe("what is received", () => {
  test("follows the sizes of the tiles, and is told once", () => {
    const meeting = new Meeting().withMedia();
    expect(meeting.told().at(-1)).toMatchObject({ colibriClass: "ReceiverVideoConstraints", lastN: -1, constraints: {} });
    const view = (px: number): CallEvent => ({ kind: "view", heights: new Map([[ownCamera(other), px]]), onStage: [] });
    expect(meeting.do(view(1000)).told()).toMatchObject([{ constraints: { [`${S.OTHER}-v0`]: { maxHeight: 1080 } } }]);
    expect(meeting.do(view(1001)).told()).toEqual([]);
    expect(meeting.do(view(150)).told()).toMatchObject([{ constraints: { [`${S.OTHER}-v0`]: { maxHeight: 180 } } }]);
    // A channel that was replaced knows nothing.
    expect(meeting.do({ kind: "channel", open: false }).do({ kind: "channel", open: true }).told()).toHaveLength(2);
  });
  test("is a thumbnail beside a stage, nothing out of view, and a screen before faces", () => {
    const info = { [`${S.OTHER}-v1`]: { muted: false, videoType: "desktop" } };
    const meeting = new Meeting().withMedia().hear(S.presence(S.OTHER, S.SOURCE_INFO(info)));
    const [camera, screen, third] = [ownCamera(other), ownShare(other), ownCamera(S.THIRD as EndpointId)];
    const heights = (list: readonly (readonly [SourceName, number])[], onStage: readonly SourceName[]): unknown =>
      meeting.do({ kind: "view", heights: new Map(list), onStage }).told().at(-1);
    // Three device pixels to each of CSS: still thumbnails.
    const staged = heights([[camera, 600], [screen, 300], [third, 300]], [camera]);
    expect(staged).toMatchObject({
      onStageSources: [camera],
      selectedSources: [screen],
      constraints: { [camera]: { maxHeight: 720 }, [screen]: { maxHeight: 180 }, [third]: { maxHeight: 180 } },
    });
    expect(heights([[camera, 300], [screen, 600], [third, 0]], [])).toMatchObject({
      selectedSources: [screen],
      constraints: { [camera]: { maxHeight: 360 }, [screen]: { maxHeight: 720 }, [third]: { maxHeight: 0 } },
    });
    expect(heights([[camera, 300], [screen, 0]], [])).toMatchObject({ selectedSources: [] });
  });
  test("is sound only when nobody looks for a while", () => {
    const meeting = new Meeting().withMedia().do({ kind: "visible", visible: false });
    expect(meeting.kinds()).toEqual(["timer"]);
    expect(meeting.do({ kind: "timer", timer: "hidden" }).told()).toMatchObject([{ lastN: 0 }]);
    expect(meeting.do({ kind: "visible", visible: true }).told()).toMatchObject([{ lastN: -1 }]);
  });
});

describe("tiles", () => {
  test("are oneself, the others, and shared screens before them", () => {
    const share = { [S.OTHER]: [[{ s: 3100200501, n: `${S.OTHER}-v1`, m: "m", v: "d" }], [], []] };
    const info = {
      [`${S.OTHER}-a0`]: { muted: false },
      [`${S.OTHER}-v0`]: { muted: false },
      [`${S.OTHER}-v1`]: { muted: false, videoType: "desktop" },
    };
    const meeting = new Meeting()
      .withMedia()
      .hear(S.sourceAdd("9q0tb1", share))
      .hear(S.presence(S.OTHER, S.NICK("Bo") + S.SOURCE_INFO(info)));
    expect(meeting.notices()).toEqual(["sharing"]);
    expect(tilesOf(meeting.room).map((tile) => [tile.source, tile.shows, tile.picture, tile.muted])).toEqual([
      [`${S.OTHER}-v1`, "screen", true, false],
      [`${S.SELF}-v0`, "camera", false, true],
      [`${S.OTHER}-v0`, "camera", true, false],
    ]);
    const stopped = { ...info, [`${S.OTHER}-v1`]: { muted: true, videoType: "desktop" } };
    meeting.hear(S.presence(S.OTHER, S.NICK("Bo") + S.SOURCE_INFO(stopped)));
    expect(tilesOf(meeting.room)).toHaveLength(2);
  });
  test("are not made for the focus and for hidden ones", () => {
    const meeting = new Meeting().enter().hear(S.FOCUS_PRESENCE);
    meeting.hear(
      `<presence xmlns='jabber:client' from='${S.ROOM}/recorder1'><x xmlns='http://jabber.org/protocol/muc#user'><item affiliation='owner' role='moderator' jid='recorder@hidden.meet.example/r'/></x></presence>`,
    );
    expect(tilesOf(meeting.room)).toHaveLength(1);
  });
});
