/** Jingle between the focus and this client: actions read, answers and requests written. */

import type { MediaKind, Source } from "../model";
import { parseSources, writeSources } from "./sources";
import { attr, child, children, el, text, type Xml } from "./xml";
import { NS } from "./ns";

export interface Feedback {
  readonly type: string;
  readonly subtype?: string;
}
export interface Payload {
  readonly id: number;
  readonly name: string;
  readonly clockrate: number;
  readonly channels: number;
  /** As written after `a=fmtp`, without the number; empty for none. */
  readonly parameters: string;
  readonly feedback: readonly Feedback[];
}
export interface Extension {
  readonly id: number;
  readonly uri: string;
}
/** One content of an offer: what the other side can send and receive of a kind. */
export interface MediaProfile {
  readonly kind: MediaKind;
  readonly payloads: readonly Payload[];
  readonly extensions: readonly Extension[];
  readonly extmapAllowMixed: boolean;
}
export interface Fingerprint {
  readonly hash: string;
  readonly value: string;
  readonly setup: string;
}
export interface Transport {
  readonly ufrag: string;
  readonly pwd: string;
  readonly fingerprint: Fingerprint | null;
  /** As in SDP, without `a=`. */
  readonly candidates: readonly string[];
}
export interface BridgeSession {
  readonly id: string;
  readonly region: string;
}
export interface Offer {
  readonly media: readonly MediaProfile[];
  readonly transport: Transport;
  readonly channelUrl: string | null;
  readonly bundle: boolean;
  readonly bridge: BridgeSession | null;
  readonly startMuted: { readonly audio: boolean; readonly video: boolean };
  readonly sources: readonly Source[];
}

/** What the focus asks; `unknown` stands for actions that this client does not have. */
export type JingleAction =
  | { readonly action: "session-initiate"; readonly sid: string; readonly initiator: string; readonly offer: Offer }
  | { readonly action: "source-add" | "source-remove"; readonly sid: string; readonly sources: readonly Source[] }
  | { readonly action: "transport-info"; readonly sid: string; readonly transport: Transport; readonly generation: number | null }
  | { readonly action: "session-terminate"; readonly sid: string; readonly reason: string }
  | { readonly action: "unknown"; readonly sid: string };

export function parseJingle(jingle: Xml): JingleAction {
  const sid = attr(jingle, "sid");
  switch (attr(jingle, "action")) {
    case "session-initiate": {
      const offer = parseOffer(jingle);
      return offer === null
        ? { action: "unknown", sid }
        : { action: "session-initiate", sid, initiator: attr(jingle, "initiator"), offer };
    }
    case "source-add":
    case "addsource":
      return { action: "source-add", sid, sources: parseSources(jingle) };
    case "source-remove":
    case "removesource":
      return { action: "source-remove", sid, sources: parseSources(jingle) };
    case "transport-info": {
      const transport = child(child(jingle, "content"), "transport", NS.ice);
      if (transport === undefined) return { action: "unknown", sid };
      const generation = Number(attr(transport, "ice-generation"));
      return {
        action: "transport-info",
        sid,
        transport: parseTransport(transport),
        generation: Number.isInteger(generation) && generation > 0 ? generation : null,
      };
    }
    case "session-terminate":
      return { action: "session-terminate", sid, reason: child(child(jingle, "reason"))?.name ?? "" };
    default:
      return { action: "unknown", sid };
  }
}

function parseOffer(jingle: Xml): Offer | null {
  const contents = children(jingle, "content");
  const transports = contents.flatMap((content) => child(content, "transport", NS.ice) ?? []);
  const transport = transports[0];
  if (transport === undefined) return null;
  const bridge = child(jingle, "bridge-session", NS.focus);
  const muted = child(jingle, "startmuted", NS.startMuted);
  return {
    media: contents.flatMap((content) => parseProfile(content) ?? []),
    transport: parseTransport(transport),
    channelUrl: transports.map((t) => attr(child(t, "web-socket", NS.colibri), "url")).find((url) => url !== "") ?? null,
    bundle: child(jingle, "group", NS.grouping) !== undefined,
    bridge: bridge === undefined ? null : { id: attr(bridge, "id"), region: attr(bridge, "region") },
    startMuted: { audio: attr(muted, "audio") === "true", video: attr(muted, "video") === "true" },
    sources: parseSources(jingle),
  };
}

function parseProfile(content: Xml): MediaProfile | null {
  const description = child(content, "description", NS.rtp);
  const kind = attr(description, "media");
  if (description === undefined || (kind !== "audio" && kind !== "video")) return null;
  return {
    kind,
    payloads: children(description, "payload-type").map((payload) => ({
      id: Number(attr(payload, "id")),
      name: attr(payload, "name"),
      clockrate: Number(attr(payload, "clockrate")),
      channels: Number(attr(payload, "channels") || "1"),
      parameters: children(payload, "parameter").map(writeParameter).join(";"),
      feedback: children(payload, "rtcp-fb").map((fb) => ({
        type: attr(fb, "type"),
        ...(attr(fb, "subtype") === "" ? {} : { subtype: attr(fb, "subtype") }),
      })),
    })),
    extensions: children(description, "rtp-hdrext").map((ext) => ({ id: Number(attr(ext, "id")), uri: attr(ext, "uri") })),
    extmapAllowMixed: child(description, "extmap-allow-mixed") !== undefined,
  };
}

/** The focus sends H264's three values as one, with `;` at the end; RED's `111/111` has no name. */
function writeParameter(parameter: Xml): string {
  const name = attr(parameter, "name");
  const value = attr(parameter, "value").replace(/;+$/, "");
  return name === "" ? value : `${name}=${value}`;
}

function parseTransport(transport: Xml): Transport {
  const fingerprint = child(transport, "fingerprint", NS.dtls);
  return {
    ufrag: attr(transport, "ufrag"),
    pwd: attr(transport, "pwd"),
    fingerprint:
      fingerprint === undefined
        ? null
        : { hash: attr(fingerprint, "hash"), value: text(fingerprint).trim(), setup: attr(fingerprint, "setup") || "actpass" },
    candidates: children(transport, "candidate").map(writeCandidate),
  };
}

function writeCandidate(candidate: Xml): string {
  const a = (name: string): string => attr(candidate, name);
  let line = `candidate:${a("foundation")} ${a("component")} ${a("protocol")} ${a("priority")} ${a("ip")} ${a("port")} typ ${a("type")}`;
  if (a("rel-addr") !== "" && a("rel-port") !== "") line += ` raddr ${a("rel-addr")} rport ${a("rel-port")}`;
  if (a("protocol").toLowerCase() === "tcp") line += ` tcptype ${a("tcptype") || "passive"}`;
  return `${line} generation ${a("generation") || "0"}`;
}

// ---- written ----

/** Which session an action belongs to, as the offer named it. */
export interface SessionRef {
  readonly sid: string;
  readonly initiator: string;
}

/** One side of an answer: what this browser chose of an offered content. */
export interface Answer {
  readonly media: readonly MediaProfile[];
  readonly transport: Transport;
}

export function sessionAccept(session: SessionRef, responder: string, answer: Answer, sources: readonly Source[]): Xml {
  const contents = answer.media.map((profile) =>
    el(
      "content",
      { creator: "responder", name: profile.kind, senders: "both" },
      el(
        "description",
        { xmlns: NS.rtp, media: profile.kind },
        ...profile.payloads.map(writePayload),
        ...writeSources(sources.filter((source) => source.kind === profile.kind)),
        el("rtcp-mux"),
        ...profile.extensions.map(({ id, uri }) => el("rtp-hdrext", { xmlns: NS.extension, id, uri })),
        ...(profile.extmapAllowMixed ? [el("extmap-allow-mixed", { xmlns: NS.extension })] : []),
      ),
      writeTransport(answer.transport),
    ),
  );
  const names = answer.media.map((profile) => el("content", { name: profile.kind }));
  return jingle(
    "session-accept",
    session,
    { responder },
    el("group", { xmlns: NS.grouping, semantics: "BUNDLE" }, ...names),
    ...contents,
  );
}

function writePayload(payload: Payload): Xml {
  const parameters = payload.parameters
    .split(";")
    .map((parameter) => parameter.trim())
    .filter((parameter) => parameter !== "")
    .map((parameter) => {
      const equals = parameter.indexOf("=");
      return equals < 0
        ? el("parameter", { value: parameter })
        : el("parameter", { name: parameter.slice(0, equals), value: parameter.slice(equals + 1) });
    });
  const feedback = payload.feedback.map(({ type, subtype }) => el("rtcp-fb", { xmlns: NS.feedback, type, subtype }));
  const { id, name, clockrate, channels } = payload;
  return el("payload-type", { id, name, clockrate, channels }, ...parameters, ...feedback);
}

function writeTransport(transport: Transport, generation?: number): Xml {
  const { ufrag, pwd, fingerprint } = transport;
  return el(
    "transport",
    { xmlns: NS.ice, ufrag, pwd, "ice-generation": generation },
    ...(fingerprint === null
      ? []
      : [el("fingerprint", { xmlns: NS.dtls, hash: fingerprint.hash, setup: fingerprint.setup }, fingerprint.value)]),
  );
}

/** `source-add` or `source-remove` of own sources. */
export function sourceChange(action: "source-add" | "source-remove", session: SessionRef, sources: readonly Source[]): Xml {
  const kinds = (["audio", "video"] as const).filter((kind) => sources.some((source) => source.kind === kind));
  return jingle(
    action,
    session,
    {},
    ...kinds.map((kind) =>
      el(
        "content",
        { name: kind },
        el("description", { xmlns: NS.rtp, media: kind }, ...writeSources(sources.filter((s) => s.kind === kind))),
      ),
    ),
  );
}

/** Asks for new ICE credentials in place; the DTLS association stays. */
export function iceRestartRequest(session: SessionRef, bridge: BridgeSession): Xml {
  return jingle("session-info", session, {}, el("bridge-session", { xmlns: NS.focus, "ice-restart": "true", id: bridge.id }));
}

/** The answer to new credentials: one's own new ones. */
export function transportInfo(session: SessionRef, transport: Transport, generation: number): Xml {
  return jingle(
    "transport-info",
    session,
    {},
    el("content", { name: "audio", creator: "initiator" }, writeTransport(transport, generation)),
  );
}

/** Ends a session that has no media and asks for another. */
export function terminateRestart(session: SessionRef, bridge: BridgeSession | null): Xml {
  return jingle(
    "session-terminate",
    session,
    {},
    el("reason", {}, el("connectivity-error"), el("text", {}, "ICE FAILED")),
    ...(bridge === null ? [] : [el("bridge-session", { xmlns: NS.focus, id: bridge.id, restart: "true" })]),
  );
}

/** Refuses a session that does not come from the focus. */
export function decline(session: SessionRef): Xml {
  return jingle("session-terminate", session, {}, el("reason", {}, el("decline"), el("text", {}, "P2P disabled")));
}

function jingle(action: string, session: SessionRef, attrs: Readonly<Record<string, string>>, ...nodes: readonly Xml[]): Xml {
  return el("jingle", { xmlns: NS.jingle, action, sid: session.sid, initiator: session.initiator, ...attrs }, ...nodes);
}
