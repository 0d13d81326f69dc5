/** The call: one pure step from a state and an event to the next state and what has to be done. */

import { parseJingle, decline } from "../wire/jingle";
import { conferenceRequest, parseConferenceAnswer } from "../wire/focus";
import { discoAnswer, isDiscoRequest } from "../wire/caps";
import { parseChat, parseServices } from "../wire/chat";
import { attr, child, el, resource, text, type Xml } from "../wire/xml";
import { NS } from "../wire/ns";
import { common, leave, rejoin } from "./leaving";
import { handlePresence } from "./occupants";
import { cleanName, deviceChanged, hearChat, mutedByOther, presenceEffect, rename, say, toggle, videoTypeEffects } from "./own";
import { hide, tell, view, visible } from "./receive";
import {
  answered,
  failed,
  handleJingle,
  iceChanged,
  localSources,
  negotiationFailed,
  recoveryOver,
  requestAnswered,
  restartDue,
  restarted,
} from "./session";
import {
  FOCUS_NICK,
  isInRoom,
  occupantJid,
  type Call,
  type CallEvent,
  type Common,
  type Effect,
  type IqTag,
  type Room,
  type Step,
  type Timer,
} from "./state";
import type { EndpointId } from "../model";
import type { FromBridge } from "../wire/channel";

export function idle(start: Pick<Common, "place" | "name" | "codecs">): Call {
  const off = { kind: "off" } as const;
  const devices = { microphone: off, camera: off, screen: off };
  return { kind: "idle", devices, chat: [], rejoins: 0, iceServers: [], password: "", ...start };
}

export function step(call: Call, event: CallEvent): Step {
  switch (event.kind) {
    case "join":
      return join(call, event.name);
    case "unlock":
      return unlock(call, event.password);
    case "leave":
      return leave(call, { kind: "own" }, true);
    case "rename":
      return rename(call, event.name);
    case "toggle":
      return toggle(call, event.device);
    case "say":
      return say(call, event.body, event.id, event.at);
    case "view":
      return view(call, event.heights, event.onStage);
    case "visible":
      return visible(call, event.visible);
    case "link-up":
      return linkUp(call, event.jid, event.nick, event.resumed);
    case "link-lost":
      return { call: isInRoom(call) ? { ...call, link: "lost" } : call, effects: [] };
    case "link-failed":
      return linkFailed(call);
    case "stanza":
      return stanza(call, event.stanza, event.at);
    case "answer":
      return answer(call, event.tag, event.iq);
    case "device":
      return deviceChanged(call, event.device, event.state);
    case "answered":
      return answered(call, event.sid, event.answer, event.sources);
    case "local-sources":
      return localSources(call, event.sid, event.sources);
    case "restarted":
      return restarted(call, event.sid, event.transport, event.generation);
    case "negotiation-failed":
      return negotiationFailed(call, event.sid);
    case "ice":
      return iceChanged(call, event.sid, event.state);
    case "channel":
      return channel(call, event.open);
    case "bridge":
      return bridge(call, event.message);
    case "timer":
      return timer(call, event.timer);
  }
}

function join(call: Call, name: string): Step {
  if (call.kind !== "idle" && call.kind !== "left") return { call, effects: [] };
  const back = call.kind === "left" ? call.had : [];
  const devices = { ...call.devices };
  for (const device of back) devices[device] = { kind: "starting" };
  return {
    call: { kind: "connecting", ...common(call), name: cleanName(name), devices, rejoins: 0 },
    effects: [...back.map((device): Effect => ({ kind: "device", device, on: true })), { kind: "connect", fresh: true }],
  };
}

/** Longest password that a room can have, in UTF-16 units; the server counts bytes and refuses the rest. */
const PASSWORD_MAX = 256;

function unlock(call: Call, password: string): Step {
  if (call.kind !== "locked") return { call, effects: [] };
  const { jid, nick } = call;
  // Asked for anew: the room may have ended while the person looked for the password.
  const asking: Call = { kind: "asking", ...common(call), password: password.slice(0, PASSWORD_MAX), jid, nick, asked: 0 };
  return { call: asking, effects: [ask(asking)] };
}

function linkUp(call: Call, jid: string, nick: EndpointId, resumed: boolean): Step {
  if (isInRoom(call) && resumed) {
    const up: Room = { ...call, link: "up" };
    const effects: Effect[] = [{ kind: "notice", notice: { kind: "back" } }];
    return { call: up, effects: up.kind === "in" ? [presenceEffect(up), ...effects] : effects };
  }
  if (call.kind === "idle" || call.kind === "left") return { call, effects: [{ kind: "disconnect", last: [] }] };
  if (call.kind === "locked") return { call: { ...call, jid, nick }, effects: [] };
  // A new stream in the middle of a meeting: the server has forgotten us, so the room has, too.
  const forgotten: readonly Effect[] = isInRoom(call) ? [{ kind: "close-session" }] : [];
  const rejoins = isInRoom(call) ? call.rejoins + 1 : call.rejoins;
  const asking: Call = { kind: "asking", ...common(call), rejoins, jid, nick, asked: 0 };
  return { call: asking, effects: [...forgotten, ask(asking)] };
}

function ask(call: Common): Effect {
  const { focus, roomJid, machineUid } = call.place;
  return { kind: "request", stanza: conferenceRequest(focus, roomJid, machineUid), tag: { of: "conference" }, patienceMs: null };
}

function linkFailed(call: Call): Step {
  if (call.kind === "connecting" || call.kind === "asking" || call.kind === "locked") {
    return leave(call, { kind: call.rejoins > 0 ? "lost" : "unreachable" }, false);
  }
  return isInRoom(call) ? rejoin(call, { kind: "lost" }) : { call, effects: [] };
}

/** Longest pause between two requests for a conference that is being prepared. */
const ASK_PAUSE_MAX_MS = 30_000;
/** Somebody with an account has to come first. */
const WAIT_FOR_HOST_MS = 5_000;

function answer(call: Call, tag: IqTag, iq: Xml | null): Step {
  const ok = iq !== null && attr(iq, "type") === "result";
  if (tag.of !== "conference") return requestAnswered(call, tag, ok);
  if (call.kind !== "asking") return { call, effects: [] };
  const told = iq === null ? ({ kind: "not-ready" } as const) : parseConferenceAnswer(iq);
  switch (told.kind) {
    case "ready":
      return enter(call);
    case "not-ready": {
      const ms = Math.min(1000 * 2 ** call.asked, ASK_PAUSE_MAX_MS);
      return { call: { ...call, asked: call.asked + 1 }, effects: [{ kind: "timer", timer: "ask-again", ms }] };
    }
    case "wait":
      return { call, effects: [{ kind: "timer", timer: "ask-again", ms: WAIT_FOR_HOST_MS }] };
    case "refused":
      return leave(call, { kind: "no-conference", text: told.text }, false);
  }
}

function enter(call: Extract<Call, { kind: "asking" }>): Step {
  const room: Room = {
    kind: "entering",
    ...common(call),
    self: call.nick,
    jid: call.jid,
    endpoints: new Map(),
    session: null,
    moderator: false,
    dominant: null,
    forwarded: null,
    wishes: { heights: new Map(), onStage: [], hidden: false, told: null },
    channelOpen: false,
    link: "up",
    restarts: 0,
  };
  return { call: room, effects: [presenceEffect(room, true)] };
}

function stanza(call: Call, received: Xml, at: number): Step {
  if (!isInRoom(call)) return received.name === "iq" ? { call, effects: answerWithoutRoom(received) } : { call, effects: [] };
  switch (received.name) {
    case "presence":
      return handlePresence(call, received);
    case "message":
      return message(call, received, at);
    case "iq":
      return request(call, received);
    default:
      return { call, effects: [] };
  }
}

function message(room: Room, received: Xml, at: number): Step {
  const iceServers = parseServices(received);
  if (iceServers !== null) return { call: { ...room, iceServers }, effects: [] };
  const said = attr(received, "from").startsWith(`${room.place.roomJid}/`) ? parseChat(received) : null;
  return said === null ? { call: room, effects: [] } : hearChat(room, said, at);
}

/** A request to this client: every one is answered. */
function request(room: Room, iq: Xml): Step {
  if (!isRequest(iq)) return { call: room, effects: [] };
  const fromFocus = attr(iq, "from") === occupantJid(room, FOCUS_NICK);
  const jingle = child(iq, "jingle", NS.jingle);
  if (jingle !== undefined) return fromFocus ? handleJingle(room, iq, parseJingle(jingle)) : refusePeer(room, iq, jingle);
  const mute = child(iq, "mute");
  if (mute !== undefined && fromFocus) return handleMute(room, iq, mute);
  return { call: room, effects: answerWithoutRoom(iq) };
}

function isRequest(iq: Xml): boolean {
  return attr(iq, "type") === "get" || attr(iq, "type") === "set";
}

function result(iq: Xml, ...nodes: readonly Xml[]): Effect {
  return {
    kind: "send",
    stanza: el("iq", { xmlns: NS.client, type: "result", to: iq.attrs["from"], id: iq.attrs["id"] }, ...nodes),
  };
}

/** What can be answered without knowing the room: features, pings; everything else is politely refused. */
function answerWithoutRoom(iq: Xml): readonly Effect[] {
  if (!isRequest(iq)) return [];
  const disco = isDiscoRequest(iq);
  if (disco !== undefined) {
    const told = discoAnswer(disco);
    return [told === null ? failed(iq, el("item-not-found", { xmlns: NS.stanzas })) : result(iq, told)];
  }
  if (child(iq, "ping", NS.ping) !== undefined) return [result(iq)];
  return [failed(iq, el("service-unavailable", { xmlns: NS.stanzas }))];
}

/** Another participant wants a direct session; this page has its media through the bridge. */
function refusePeer(room: Room, iq: Xml, jingle: Xml): Step {
  if (attr(jingle, "action") !== "session-initiate") {
    const conditions = [el("item-not-found", { xmlns: NS.stanzas }), el("unknown-session", { xmlns: NS.jingleErrors })];
    return { call: room, effects: [failed(iq, ...conditions)] };
  }
  const ref = { sid: attr(jingle, "sid"), initiator: attr(jingle, "initiator") };
  const terminate = el("iq", { xmlns: NS.client, type: "set", to: iq.attrs["from"] }, decline(ref));
  const tag: IqTag = { of: "sources", sid: ref.sid };
  return { call: room, effects: [result(iq), { kind: "request", stanza: terminate, tag, patienceMs: null }] };
}

function handleMute(room: Room, iq: Xml, mute: Xml): Step {
  const device = mute.ns === NS.muteAudio ? "microphone" : mute.ns === NS.muteVideo ? "camera" : null;
  const ok = result(iq);
  if (device === null || text(mute).trim() !== "true") return { call: room, effects: [ok] };
  const muted = mutedByOther(room, device);
  return { call: muted.call, effects: [ok, ...muted.effects] };
}

function channel(call: Call, open: boolean): Step {
  if (!isInRoom(call) || call.session === null) return { call, effects: [] };
  const next: Room = { ...call, channelOpen: open, wishes: { ...call.wishes, told: null } };
  if (!open) return { call: next, effects: [] };
  const told = tell(next);
  return { call: told.call, effects: [...videoTypeEffects(next), ...told.effects] };
}

function bridge(call: Call, said: FromBridge): Step {
  if (!isInRoom(call)) return { call, effects: [] };
  switch (said.kind) {
    case "dominant":
      return { call: { ...call, dominant: said.silence ? null : said.endpoint }, effects: [] };
    case "forwarded":
      return { call: { ...call, forwarded: said.sources }, effects: [] };
    case "sender-limit":
      return { call, effects: [{ kind: "limit-encodings", source: said.source, maxHeight: said.maxHeight }] };
    case "connectivity": {
      const endpoint = call.endpoints.get(said.endpoint);
      if (endpoint === undefined) return { call, effects: [] };
      return {
        call: { ...call, endpoints: new Map(call.endpoints).set(endpoint.id, { ...endpoint, lost: !said.active }) },
        effects: [],
      };
    }
  }
}

function timer(call: Call, which: Timer): Step {
  switch (which) {
    case "ask-again":
      return { call, effects: call.kind === "asking" ? [ask(call)] : [] };
    case "settled":
      return { call: { ...call, rejoins: 0 }, effects: [] };
    case "ice-restart":
      return restartDue(call);
    case "ice-recovery":
      return recoveryOver(call);
    case "hidden":
      return hide(call);
  }
}

/** The nick of a full JID: the first eight digits of its user part when that is a UUID. */
export function nickOf(jid: string): EndpointId | null {
  const first = jid.slice(0, 8);
  return /^[0-9a-f]{8}$/.test(first) && resource(jid) !== "" ? (first as EndpointId) : null;
}
