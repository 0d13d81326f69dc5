/** Presence in the room: one's own written whole each time, others' read; joining and leaving (XEP-0045). */

import { endpointId, sourceName, type EndpointId, type SourceName, type VideoType } from "../model";
import { capsElement } from "./caps";
import { attr, child, children, el, resource, text, type Xml } from "./xml";
import { NS } from "./ns";

export interface SourceState {
  readonly muted: boolean;
  readonly videoType: VideoType;
}
export type SourceStates = ReadonlyMap<SourceName, SourceState>;

/** Everything that one's own presence says. */
export interface OwnPresence {
  readonly name: string;
  readonly codecs: readonly string[];
  readonly sources: SourceStates;
}

/** `join` makes it a join, with a password unless that is empty. */
export function writePresence(to: string, own: OwnPresence, join: { readonly password: string } | null): Xml {
  const sources: Record<string, { muted: boolean; videoType?: VideoType }> = {};
  for (const [name, { muted, videoType }] of own.sources) {
    sources[name] = videoType === "desktop" ? { muted, videoType } : { muted };
  }
  return el(
    "presence",
    { xmlns: NS.client, to },
    ...(join === null ? [] : [el("x", { xmlns: NS.muc }, ...(join.password === "" ? [] : [el("password", {}, join.password)]))]),
    capsElement(),
    el("SourceInfo", {}, JSON.stringify(sources)),
    el("jitsi_participant_codecList", {}, own.codecs.join(",")),
    ...(own.name === "" ? [] : [el("nick", { xmlns: NS.nick }, own.name)]),
  );
}

export function leavePresence(to: string): Xml {
  return el("presence", { xmlns: NS.client, to, type: "unavailable" });
}

/** What an occupant says of itself. */
export interface OccupantPresence {
  readonly name: string;
  readonly jid: string;
  readonly moderator: boolean;
  readonly sources: SourceStates;
}

export type RoomPresence =
  | { readonly kind: "present"; readonly nick: EndpointId; readonly occupant: OccupantPresence; readonly bridgeMissing: boolean }
  | { readonly kind: "gone"; readonly nick: EndpointId; readonly reason: GoneReason }
  | { readonly kind: "refused"; readonly why: JoinRefusal };

export type GoneReason =
  | { readonly kind: "left" }
  | { readonly kind: "kicked"; readonly text: string }
  /** `to` is where the meeting goes on, if anywhere. */
  | { readonly kind: "destroyed"; readonly text: string; readonly to: string };

/** Why the room did not let us in; the cases are those that a person can be told apart (signalling order of checks). */
export type JoinRefusal = "password" | "full" | "members-only" | "conflict" | "not-allowed" | "banned" | "other";

export function parsePresence(presence: Xml): RoomPresence | null {
  const type = attr(presence, "type");
  if (type === "error") return { kind: "refused", why: parseRefusal(child(presence, "error")) };
  const nick = endpointId(resource(attr(presence, "from")));
  if (nick === null) return null;
  const user = child(presence, "x", NS.mucUser);
  if (type === "unavailable") return { kind: "gone", nick, reason: parseGone(user) };
  const item = child(user, "item");
  if (type !== "" || item === undefined) return null;
  const occupant: OccupantPresence = {
    name: text(child(presence, "nick", NS.nick))
      .trim()
      .slice(0, NAME_MAX),
    jid: attr(item, "jid"),
    moderator: attr(item, "role") === "moderator",
    sources: parseSourceInfo(presence, nick),
  };
  return { kind: "present", nick, occupant, bridgeMissing: child(presence, "bridgeNotAvailable", NS.focus) !== undefined };
}

/** Longest display name shown, in UTF-16 units. */
export const NAME_MAX = 80;

function parseGone(user: Xml | undefined): GoneReason {
  const destroy = child(user, "destroy");
  if (destroy !== undefined) return { kind: "destroyed", text: text(child(destroy, "reason")), to: attr(destroy, "jid") };
  const kicked = user !== undefined && children(user, "status").some((status) => ["307", "301"].includes(attr(status, "code")));
  return kicked ? { kind: "kicked", text: text(child(child(user, "item"), "reason")) } : { kind: "left" };
}

function parseRefusal(error: Xml | undefined): JoinRefusal {
  const has = (name: string): boolean => child(error, name) !== undefined;
  if (has("not-authorized")) return "password";
  if (has("not-allowed")) return "not-allowed";
  if (has("service-unavailable")) return "full";
  if (has("registration-required")) return "members-only";
  if (has("conflict")) return "conflict";
  return has("forbidden") ? "banned" : "other";
}

function parseSourceInfo(presence: Xml, nick: EndpointId): SourceStates {
  const states = new Map<SourceName, SourceState>();
  const info = child(presence, "SourceInfo");
  if (info === undefined) {
    // Older clients say it per kind.
    for (const [element, suffix] of [
      ["audiomuted", "a0"],
      ["videomuted", "v0"],
    ] as const) {
      const name = sourceName(`${nick}-${suffix}`);
      const muted = child(presence, element);
      if (name !== null && muted !== undefined) {
        states.set(name, {
          muted: text(muted).trim() === "true",
          videoType: text(child(presence, "videoType")).trim() === "desktop" ? "desktop" : "camera",
        });
      }
    }
    return states;
  }
  let parsed: unknown;
  try {
    parsed = JSON.parse(text(info));
  } catch {
    return states;
  }
  if (typeof parsed !== "object" || parsed === null) return states;
  for (const [key, entry] of Object.entries(parsed)) {
    const name = sourceName(key);
    // Nobody speaks for another's sources.
    if (name === null || !key.startsWith(`${nick}-`) || typeof entry !== "object" || entry === null) continue;
    const { muted, videoType } = entry as { muted?: unknown; videoType?: unknown };
    states.set(name, { muted: muted !== false, videoType: videoType === "desktop" ? "desktop" : "camera" });
  }
  return states;
}
