/** Messages in the room: chat, and what the server says as JSON. */

import { endpointId, type EndpointId } from "../model";
import { attr, child, el, resource, text, type Xml } from "./xml";
import { NS } from "./ns";

/** Longest chat message, in UTF-16 units; the field stops there. */
export const CHAT_MAX = 2000;

export function writeChat(room: string, id: string, body: string): Xml {
  return el("message", { xmlns: NS.client, to: room, type: "groupchat", id }, el("body", {}, body));
}

export interface ChatMessage {
  readonly id: string;
  readonly from: EndpointId;
  readonly body: string;
  /** When the room first passed it on, if it is history: milliseconds since 1970. */
  readonly stamp: number | null;
  /** Addressed to this client alone. */
  readonly isPrivate: boolean;
}

export function parseChat(message: Xml): ChatMessage | null {
  const type = attr(message, "type");
  const body = child(message, "body");
  const from = endpointId(resource(attr(message, "from")));
  if ((type !== "groupchat" && type !== "chat") || body === undefined || from === null) return null;
  // A retraction and a reaction carry a body only for clients that know neither.
  if (child(message, "retract") !== undefined || child(message, "reactions") !== undefined) return null;
  const stamp = Date.parse(attr(child(message, "delay", NS.delay), "stamp"));
  return {
    id: attr(message, "id"),
    from,
    body: text(body).slice(0, CHAT_MAX * 4),
    stamp: Number.isNaN(stamp) ? null : stamp,
    isPrivate: type === "chat",
  };
}

/** Relays that the browser may use, as an `RTCIceServer` has them. */
export interface IceServer {
  readonly urls: string;
  readonly username?: string;
  readonly credential?: string;
}

/** TURN services in a `room_metadata` message; `null` when the message is about something else. */
export function parseServices(message: Xml): readonly IceServer[] | null {
  const json = child(message, "json-message", NS.jitmeet);
  if (json === undefined) return null;
  let parsed: unknown;
  try {
    parsed = JSON.parse(text(json));
  } catch {
    return null;
  }
  const { type, metadata } = (parsed ?? {}) as { type?: unknown; metadata?: unknown };
  if (type !== "room_metadata" || typeof metadata !== "object" || metadata === null) return null;
  const { services } = metadata as { services?: unknown };
  if (!Array.isArray(services)) return null;
  return services.flatMap((service: unknown): IceServer[] => {
    const { type: kind, host, port, transport, username, password } = (service ?? {}) as Record<string, unknown>;
    if ((kind !== "turn" && kind !== "turns") || typeof host !== "string") return [];
    const at = typeof port === "string" || typeof port === "number" ? `:${port}` : "";
    const via = typeof transport === "string" && transport !== "udp" ? `?transport=${transport}` : "";
    const urls = `${kind}:${host}${at}${via}`;
    return [typeof username === "string" && typeof password === "string" ? { urls, username, credential: password } : { urls }];
  });
}
