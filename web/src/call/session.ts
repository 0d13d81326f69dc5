/** The media session: offers, sources of others, own sources, and mending a path that broke. */

import { BRIDGE_OWNER, type Source, type SourceName } from "../model";
import {
  iceRestartRequest,
  sessionAccept,
  sourceChange,
  terminateRestart,
  transportInfo,
  type Answer,
  type JingleAction,
  type Transport,
} from "../wire/jingle";
import { el, type Xml } from "../wire/xml";
import { NS } from "../wire/ns";
import { leave, rejoin } from "./leaving";
import { presenceEffect, videoTypeEffects } from "./own";
import { isInRoom, type Call, type Effect, type IqTag, type Room, type Session, type Step } from "./state";

/** A client waits this long for the answer to a Jingle request. */
const JINGLE_PATIENCE_MS = 10_000;
/** ICE often comes back by itself within a few seconds; after that new credentials are the quicker way. */
const INTERRUPTED_FOR_MS = 4_000;
/** An in-place restart that has not connected by then has failed. */
const RECOVERY_MS = 15_000;
/** Restarts in a row before the whole meeting is joined anew. */
const RESTARTS_MAX = 3;

/** Answers and applies an action of the focus. `iq` is the request that it came in. */
export function handleJingle(room: Room, iq: Xml, action: JingleAction): Step {
  const ok: Effect = {
    kind: "send",
    stanza: el("iq", { xmlns: NS.client, type: "result", to: iq.attrs["from"], id: iq.attrs["id"] }),
  };
  if (action.action === "session-initiate") {
    const opened = open(room, iq.attrs["from"] ?? "", action);
    return { call: opened.call, effects: [ok, ...opened.effects] };
  }
  const session = room.session;
  if (session === null || session.ref.sid !== action.sid) return { call: room, effects: [unknownSession(iq)] };
  switch (action.action) {
    case "source-add":
    case "source-remove": {
      const change = withRemote(
        room,
        session,
        action.action === "source-add" ? add(session, action.sources) : remove(session, action.sources),
      );
      return { call: change.call, effects: [ok, ...change.effects] };
    }
    case "transport-info":
      return handleTransport(room, session, ok, action.transport, action.generation);
    case "session-terminate":
      return {
        call: { ...room, session: null, channelOpen: false, forwarded: null },
        effects: [
          ok,
          { kind: "close-session" },
          { kind: "cancel", timer: "ice-restart" },
          { kind: "cancel", timer: "ice-recovery" },
        ],
      };
    case "unknown":
      return { call: room, effects: [badRequest(iq)] };
  }
}

function open(room: Room, from: string, offered: Extract<JingleAction, { action: "session-initiate" }>): Step {
  const { sid, initiator, offer } = offered;
  const session: Session = {
    ref: { sid, initiator },
    from,
    offer,
    accept: "answering",
    remote: add({ remote: new Map() }, offer.sources),
    signalled: [],
    local: [],
    generation: 0,
    ice: "connecting",
  };
  const call: Room = { ...room, session, channelOpen: false, forwarded: null, wishes: { ...room.wishes, told: null } };
  const effects: Effect[] = [];
  if (room.session !== null) effects.push({ kind: "close-session" });
  effects.push({ kind: "open-session", ref: session.ref, offer, self: room.self, iceServers: room.iceServers });
  const remote = ofOthers(call, session.remote);
  if (remote.length > 0) effects.push({ kind: "remote-sources", sid, sources: remote });
  return { call, effects };
}

function add(session: Pick<Session, "remote">, sources: readonly Source[]): ReadonlyMap<SourceName, Source> {
  const remote = new Map(session.remote);
  for (const source of sources) if (source.owner !== BRIDGE_OWNER) remote.set(source.name, source);
  return remote;
}

function remove(session: Session, sources: readonly Source[]): ReadonlyMap<SourceName, Source> {
  const remote = new Map(session.remote);
  for (const source of sources) {
    const known = remote.get(source.name);
    // A source that was replaced meanwhile bears other SSRCs and stays.
    if (known?.ssrcs.some((ssrc) => source.ssrcs.includes(ssrc)) === true) remote.delete(source.name);
  }
  return remote;
}

function withRemote(room: Room, session: Session, remote: ReadonlyMap<SourceName, Source>): Step {
  const call: Room = { ...room, session: { ...session, remote } };
  return { call, effects: [{ kind: "remote-sources", sid: session.ref.sid, sources: ofOthers(call, remote) }] };
}

function ofOthers(room: Room, remote: ReadonlyMap<SourceName, Source>): readonly Source[] {
  return [...remote.values()].filter((source) => source.owner !== room.self);
}

/** Nobody announces the end of the sources of who leaves the room. */
export function dropSourcesOf(room: Room, owner: string): Step {
  const session = room.session;
  if (session === null || ![...session.remote.values()].some((source) => source.owner === owner))
    return { call: room, effects: [] };
  return withRemote(room, session, new Map([...session.remote].filter(([, source]) => source.owner !== owner)));
}

/** The peer connection has an answer for the offer. */
export function answered(call: Call, sid: string, answer: Answer, sources: readonly Source[]): Step {
  if (!isInRoom(call) || call.session?.ref.sid !== sid || call.session.accept !== "answering") return { call, effects: [] };
  const session: Session = { ...call.session, accept: "accepting", local: sources, signalled: sources };
  const stanza = request(session, sessionAccept(session.ref, call.jid, answer, sources));
  return {
    call: { ...call, session },
    effects: [{ kind: "request", stanza, tag: { of: "accept", sid }, patienceMs: JINGLE_PATIENCE_MS }],
  };
}

/** Own SSRCs changed: a share's m-line appeared, a browser chose others. */
export function localSources(call: Call, sid: string, sources: readonly Source[]): Step {
  if (!isInRoom(call) || call.session?.ref.sid !== sid) return { call, effects: [] };
  const session: Session = { ...call.session, local: sources };
  return signal({ ...call, session }, session);
}

function signal(room: Room, session: Session): Step {
  if (session.accept !== "active") return { call: room, effects: [] };
  const gone = session.signalled.filter((source) => !session.local.some((other) => same(source, other)));
  const fresh = session.local.filter((source) => !session.signalled.some((other) => same(source, other)));
  if (gone.length === 0 && fresh.length === 0) return { call: room, effects: [] };
  const call: Room = { ...room, session: { ...session, signalled: session.local } };
  const tag: IqTag = { of: "sources", sid: session.ref.sid };
  const change = (action: "source-add" | "source-remove", sources: readonly Source[]): readonly Effect[] =>
    sources.length === 0
      ? []
      : [
          {
            kind: "request",
            stanza: request(session, sourceChange(action, session.ref, sources)),
            tag,
            patienceMs: JINGLE_PATIENCE_MS,
          },
        ];
  return {
    call,
    effects: [...change("source-remove", gone), ...change("source-add", fresh), ...videoTypeEffects(call), presenceEffect(call)],
  };
}

function same(a: Source, b: Source): boolean {
  return a.name === b.name && a.ssrcs.length === b.ssrcs.length && a.ssrcs.every((ssrc) => b.ssrcs.includes(ssrc));
}

/** An answer to one of the session's requests; `ok` is false for an error and for silence. */
export function requestAnswered(call: Call, tag: Exclude<IqTag, { of: "conference" }>, ok: boolean): Step {
  if (!isInRoom(call)) return { call, effects: [] };
  if (tag.of === "terminate-restart") return ok ? { call, effects: [] } : rejoin(call, { kind: "no-media" });
  const session = call.session;
  if (session === null || session.ref.sid !== tag.sid) return { call, effects: [] };
  switch (tag.of) {
    case "accept": {
      if (!ok) return rejoin(call, { kind: "no-media" });
      const active: Session = { ...session, accept: "active" };
      const next: Room = { ...call, session: active };
      const changes = signal(next, active);
      return changes.effects.length > 0 ? changes : { call: next, effects: [presenceEffect(next), ...videoTypeEffects(next)] };
    }
    case "ice-restart":
      return ok ? { call, effects: [] } : fullRestart(call, session);
    case "sources":
    case "transport":
      return { call, effects: [] };
  }
}

function handleTransport(room: Room, session: Session, ok: Effect, transport: Transport, generation: number | null): Step {
  const { sid } = session.ref;
  if (generation === null) return { call: room, effects: [ok, { kind: "add-candidates", sid, candidates: transport.candidates }] };
  if (generation <= session.generation) return { call: room, effects: [ok] };
  return {
    call: { ...room, session: { ...session, generation } },
    effects: [ok, { kind: "restart-ice", sid, transport, generation }],
  };
}

/** The browser has new credentials of its own for an in-place restart. */
export function restarted(call: Call, sid: string, transport: Transport, generation: number): Step {
  if (!isInRoom(call) || call.session?.ref.sid !== sid) return { call, effects: [] };
  const stanza = request(call.session, transportInfo(call.session.ref, transport, generation));
  return { call, effects: [{ kind: "request", stanza, tag: { of: "transport", sid }, patienceMs: JINGLE_PATIENCE_MS }] };
}

export function iceChanged(call: Call, sid: string, state: "connected" | "interrupted" | "failed"): Step {
  if (!isInRoom(call) || call.session?.ref.sid !== sid) return { call, effects: [] };
  const { session } = call;
  switch (state) {
    case "connected":
      return {
        call: { ...call, session: { ...session, ice: "connected" }, restarts: 0 },
        effects: [
          { kind: "cancel", timer: "ice-restart" },
          { kind: "cancel", timer: "ice-recovery" },
        ],
      };
    case "interrupted":
      if (session.ice === "restarting") return { call, effects: [] };
      return {
        call: { ...call, session: { ...session, ice: "interrupted" } },
        effects: [{ kind: "timer", timer: "ice-restart", ms: INTERRUPTED_FOR_MS }],
      };
    case "failed":
      return session.ice === "restarting" ? { call, effects: [] } : restartInPlace(call, session);
  }
}

/** Time to do something about a path that did not come back. */
export function restartDue(call: Call): Step {
  if (!isInRoom(call) || call.session === null || call.session.ice !== "interrupted") return { call, effects: [] };
  return restartInPlace(call, call.session);
}

function restartInPlace(room: Room, session: Session): Step {
  const interrupted: Room = { ...room, session: { ...session, ice: "interrupted" } };
  // Nobody can be asked now; the socket's return is waited for first.
  if (room.link === "lost")
    return { call: interrupted, effects: [{ kind: "timer", timer: "ice-restart", ms: INTERRUPTED_FOR_MS }] };
  if (room.restarts >= RESTARTS_MAX) return rejoin(room, { kind: "no-media" });
  const { bridge } = session.offer;
  if (bridge === null || session.accept !== "active") return fullRestart(interrupted, session);
  const stanza = request(session, iceRestartRequest(session.ref, bridge));
  return {
    call: { ...room, session: { ...session, ice: "restarting" }, restarts: room.restarts + 1 },
    effects: [
      { kind: "request", stanza, tag: { of: "ice-restart", sid: session.ref.sid }, patienceMs: JINGLE_PATIENCE_MS },
      { kind: "timer", timer: "ice-recovery", ms: RECOVERY_MS },
    ],
  };
}

export function recoveryOver(call: Call): Step {
  if (!isInRoom(call) || call.session === null || call.session.ice !== "restarting") return { call, effects: [] };
  return fullRestart(call, call.session);
}

/** Ends the session and asks for another one. */
function fullRestart(room: Room, session: Session): Step {
  const stanza = request(session, terminateRestart(session.ref, session.offer.bridge));
  return {
    call: { ...room, session: null, channelOpen: false, forwarded: null },
    effects: [
      { kind: "cancel", timer: "ice-recovery" },
      { kind: "close-session" },
      { kind: "request", stanza, tag: { of: "terminate-restart", sid: session.ref.sid }, patienceMs: JINGLE_PATIENCE_MS },
    ],
  };
}

/** The browser could not apply a description: nothing of this session can be trusted. */
export function negotiationFailed(call: Call, sid: string): Step {
  if (!isInRoom(call) || call.session?.ref.sid !== sid) return { call, effects: [] };
  return call.session.accept === "active" ? fullRestart(call, call.session) : leave(call, { kind: "no-media" }, true);
}

function request(session: Session, jingle: Xml): Xml {
  return el("iq", { xmlns: NS.client, type: "set", to: session.from }, jingle);
}

function unknownSession(iq: Xml): Effect {
  return failed(iq, el("item-not-found", { xmlns: NS.stanzas }), el("unknown-session", { xmlns: NS.jingleErrors }));
}

function badRequest(iq: Xml): Effect {
  return failed(iq, el("bad-request", { xmlns: NS.stanzas }));
}

/** The answer to an IQ that cannot be done. */
export function failed(iq: Xml, ...conditions: readonly Xml[]): Effect {
  const { from, id } = iq.attrs;
  return {
    kind: "send",
    stanza: el("iq", { xmlns: NS.client, type: "error", to: from, id }, el("error", { type: "cancel" }, ...conditions)),
  };
}
