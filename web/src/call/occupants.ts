/** Who is in the room, from presence. */

import type { EndpointId } from "../model";
import { parsePresence, type GoneReason, type OccupantPresence } from "../wire/presence";
import { attr, bare, type Xml } from "../wire/xml";
import { common, leave, rejoin } from "./leaving";
import { sayPending } from "./own";
import { dropSourcesOf } from "./session";
import { FOCUS_NICK, type Effect, type Endpoint, type Notice, type Room, type Step } from "./state";

/** A meeting that held this long may be joined anew once more. */
const SETTLED_MS = 60_000;

export function handlePresence(room: Room, stanza: Xml): Step {
  if (bare(attr(stanza, "from")) !== room.place.roomJid) return { call: room, effects: [] };
  const presence = parsePresence(stanza);
  if (presence === null) return { call: room, effects: [] };
  switch (presence.kind) {
    case "refused":
      // Later errors answer an update of one's own presence: the stay goes on.
      if (room.kind !== "entering") return { call: room, effects: [] };
      if (presence.why === "password") return locked(room);
      return presence.why === "conflict"
        ? rejoin(room, { kind: "refused", why: "conflict" })
        : leave(room, { kind: "refused", why: presence.why }, false);
    case "gone":
      if (presence.nick === room.self) return selfGone(room, presence.reason);
      return presence.nick === FOCUS_NICK ? rejoin(room, { kind: "lost" }) : gone(room, presence.nick);
    case "present": {
      if (presence.nick === room.self) return selfPresent(room, presence.occupant);
      if (presence.nick === FOCUS_NICK) {
        return { call: room, effects: presence.bridgeMissing ? [{ kind: "notice", notice: { kind: "no-bridge" } }] : [] };
      }
      return present(room, presence.nick, presence.occupant);
    }
  }
}

/** The person is asked; devices and the connection stay. */
function locked(room: Room): Step {
  const { jid, self: nick } = room;
  return { call: { kind: "locked", ...common(room), jid, nick, wrong: room.password !== "" }, effects: [] };
}

function selfPresent(room: Room, occupant: OccupantPresence): Step {
  const call: Room = { ...room, kind: "in", moderator: occupant.moderator };
  if (room.kind === "in") return { call, effects: [] };
  return { call, effects: [{ kind: "timer", timer: "settled", ms: SETTLED_MS }, ...sayPending(call)] };
}

function selfGone(room: Room, reason: GoneReason): Step {
  switch (reason.kind) {
    case "kicked":
      return leave(room, { kind: "kicked", text: reason.text }, false);
    case "destroyed":
      // "Destroyed, go on in the same room" is how a server asks everybody to come back.
      return reason.to === room.place.roomJid
        ? rejoin(room, { kind: "lost" })
        : leave(room, { kind: "ended", text: reason.text }, false);
    case "left":
      return rejoin(room, { kind: "lost" });
  }
}

function present(room: Room, id: EndpointId, occupant: OccupantPresence): Step {
  if (room.place.hiddenDomain !== "" && bare(occupant.jid).endsWith(`@${room.place.hiddenDomain}`))
    return { call: room, effects: [] };
  const before = room.endpoints.get(id);
  const endpoint: Endpoint = { id, ...occupant, lost: before?.lost ?? false };
  const call: Room = { ...room, endpoints: new Map(room.endpoints).set(id, endpoint) };
  const notices: Notice[] = [];
  // Who was there before us is no news.
  if (room.kind === "in" && before === undefined) notices.push({ kind: "joined", name: endpoint.name });
  if (sharing(endpoint) && (before === undefined || !sharing(before))) notices.push({ kind: "sharing", name: endpoint.name });
  return { call, effects: notices.map((notice): Effect => ({ kind: "notice", notice })) };
}

function sharing(endpoint: Endpoint): boolean {
  return [...endpoint.sources.values()].some((source) => source.videoType === "desktop" && !source.muted);
}

function gone(room: Room, id: EndpointId): Step {
  const endpoint = room.endpoints.get(id);
  const endpoints = new Map(room.endpoints);
  endpoints.delete(id);
  const without = dropSourcesOf({ ...room, endpoints, dominant: room.dominant === id ? null : room.dominant }, id);
  if (endpoint === undefined) return without;
  return { call: without.call, effects: [...without.effects, { kind: "notice", notice: { kind: "left", name: endpoint.name } }] };
}
