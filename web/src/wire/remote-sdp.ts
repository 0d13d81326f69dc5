/**
 * The remote description: an offer of the focus and the sources of others, as SDP.
 *
 * The bridge always offers. One m-line per kind is the one that this client sends on (it carries the bridge's own RTCP source), one
 * more appears for a screen share, and every source of another participant has one of its own. An m-line can never be taken away, so
 * one whose source has gone waits as `inactive` for the next source of its kind: long meetings do not grow the description.
 */

import { BRIDGE_OWNER, type MediaKind, type Source } from "../model";
import type { MediaProfile, Offer, Payload, Transport } from "./jingle";
import { primarySsrc } from "./sources";

export type SlotUse =
  | { readonly use: "own"; readonly source: Source | null }
  | { readonly use: "share" }
  | { readonly use: "remote"; readonly source: Source }
  | { readonly use: "free" };

export type Slot = SlotUse & { readonly mid: string; readonly kind: MediaKind };

/** What the description should hold. */
export interface Wanted {
  readonly sources: readonly Source[];
  /** Whether a second video stream is to be sent; once made, its m-line stays for the next share. */
  readonly share: boolean;
}

/** The m-lines of a new session. */
export function firstSlots(offer: Offer): readonly Slot[] {
  return offer.media.map((profile, index) => ({
    mid: String(index),
    kind: profile.kind,
    use: "own",
    source: offer.sources.find((source) => source.owner === BRIDGE_OWNER && source.kind === profile.kind) ?? null,
  }));
}

/** Moves the m-lines towards what is wanted: frees, re-uses, then appends. Existing assignments never move. */
export function planSlots(slots: readonly Slot[], wanted: Wanted): readonly Slot[] {
  const missing = new Map(wanted.sources.filter((source) => source.owner !== BRIDGE_OWNER).map((source) => [source.name, source]));
  const kinds = new Set(slots.map((slot) => slot.kind));
  const planned: Slot[] = slots.map((slot) => {
    if (slot.use !== "remote") return slot;
    const source = missing.get(slot.source.name);
    if (source === undefined || source.kind !== slot.kind) return { mid: slot.mid, kind: slot.kind, use: "free" };
    missing.delete(source.name);
    return { ...slot, source };
  });
  for (const source of missing.values()) {
    if (!kinds.has(source.kind)) continue;
    const free = planned.findIndex((slot) => slot.use === "free" && slot.kind === source.kind);
    const slot: Slot = { mid: planned[free]?.mid ?? String(planned.length), kind: source.kind, use: "remote", source };
    if (free < 0) planned.push(slot);
    else planned[free] = slot;
  }
  if (wanted.share && kinds.has("video") && !planned.some((slot) => slot.use === "share")) {
    planned.push({ mid: String(planned.length), kind: "video", use: "share" });
  }
  return planned;
}

/**
 * Not taken up: streams are told apart by SSRC here, and the numbers that other senders put into it mean m-lines of theirs, which a
 * browser that knows the extension would believe.
 */
const MID_EXTENSION = "urn:ietf:params:rtp-hdrext:sdes:mid";

const DIRECTION = { own: "sendrecv", share: "recvonly", remote: "sendonly", free: "inactive" } as const;

/** How payloads are ordered in the description: the first that both know is what this browser sends. */
export type CodecOrder = readonly string[];

/** Writes the offer for these m-lines. `version` must grow with each description of a session. */
export function writeRemote(
  offer: Offer,
  slots: readonly Slot[],
  version: number,
  order: CodecOrder,
  transport: Transport,
): string {
  const lines = ["v=0", `o=- 1 ${version} IN IP4 0.0.0.0`, "s=-", "t=0 0"];
  if (offer.bundle) lines.push(`a=group:BUNDLE ${slots.map((slot) => slot.mid).join(" ")}`);
  lines.push("a=msid-semantic: WMS *");
  slots.forEach((slot, index) => {
    const profile = offer.media.find((media) => media.kind === slot.kind);
    if (profile !== undefined) lines.push(...writeSlot(slot, profile, transport, order, index === 0));
  });
  // A description is lines; whatever a value held must not make another one.
  return lines.map((line) => line.replace(/[\r\n]+/g, " ")).join("\r\n") + "\r\n";
}

function writeSlot(slot: Slot, profile: MediaProfile, transport: Transport, order: CodecOrder, first: boolean): readonly string[] {
  const payloads = orderPayloads(profile.payloads, order);
  const { ufrag, pwd, fingerprint } = transport;
  const lines = [
    `m=${slot.kind} 9 UDP/TLS/RTP/SAVPF ${payloads.map((payload) => payload.id).join(" ")}`,
    "c=IN IP4 0.0.0.0",
    "a=rtcp:9 IN IP4 0.0.0.0",
    `a=ice-ufrag:${ufrag}`,
    `a=ice-pwd:${pwd}`,
    "a=ice-options:trickle",
  ];
  if (fingerprint !== null) lines.push(`a=fingerprint:${fingerprint.hash} ${fingerprint.value}`, `a=setup:${fingerprint.setup}`);
  lines.push(`a=mid:${slot.mid}`);
  lines.push(...profile.extensions.filter(({ uri }) => uri !== MID_EXTENSION).map(({ id, uri }) => `a=extmap:${id} ${uri}`));
  if (profile.extmapAllowMixed) lines.push("a=extmap-allow-mixed");
  lines.push(`a=${DIRECTION[slot.use]}`, "a=rtcp-mux", ...payloads.flatMap(writePayload));
  if (slot.use === "remote") lines.push(...writeStream(slot.source));
  if (slot.use === "own" && slot.source !== null) lines.push(...writeStream(slot.source));
  // With BUNDLE only the first m-line's count.
  if (first) lines.push(...transport.candidates.map((candidate) => `a=${candidate}`));
  return lines;
}

function writePayload(payload: Payload): readonly string[] {
  const { id, name, clockrate, channels, parameters, feedback } = payload;
  return [
    `a=rtpmap:${id} ${name}/${clockrate}${channels > 1 ? `/${channels}` : ""}`,
    ...feedback.map(({ type, subtype }) => `a=rtcp-fb:${id} ${type}${subtype === undefined ? "" : ` ${subtype}`}`),
    ...(parameters === "" ? [] : [`a=fmtp:${id} ${parameters}`]),
  ];
}

/** Streams are named after their source, so no two m-lines can share a name whatever others signal. */
function writeStream(source: Source): readonly string[] {
  const primary = primarySsrc(source);
  if (primary === undefined) return [];
  const fid = source.groups.find((group) => group.semantics === "FID" && group.ssrcs[0] === primary);
  const ssrcs = fid === undefined ? [primary] : fid.ssrcs.slice(0, 2);
  return [
    `a=msid:${source.name} ${source.name}-t`,
    ...(fid === undefined ? [] : [`a=ssrc-group:FID ${ssrcs.join(" ")}`]),
    ...ssrcs.flatMap((ssrc) => [`a=ssrc:${ssrc} cname:${source.name}`, `a=ssrc:${ssrc} msid:${source.name} ${source.name}-t`]),
  ];
}

/** Preferred codecs first, each followed by its retransmission payload; the others keep their order. */
export function orderPayloads(payloads: readonly Payload[], order: CodecOrder): readonly Payload[] {
  const rank = (name: string): number => {
    const index = order.findIndex((codec) => codec.toLowerCase() === name.toLowerCase());
    return index < 0 ? order.length : index;
  };
  const aptOf = (payload: Payload): number => Number(/(?:^|;)apt=(\d+)/.exec(payload.parameters)?.[1] ?? -1);
  const codecs = payloads.filter((payload) => payload.name.toLowerCase() !== "rtx");
  const repairs = payloads.filter((payload) => payload.name.toLowerCase() === "rtx");
  return [...codecs]
    .sort((a, b) => rank(a.name) - rank(b.name))
    .flatMap((codec) => [codec, ...repairs.filter((repair) => aptOf(repair) === codec.id)]);
}
