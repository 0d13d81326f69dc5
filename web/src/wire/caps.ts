/** What this client can do, as it says in presence (XEP-0115) and when the focus asks (XEP-0030). */

import { attr, child, el, type Xml } from "./xml";
import { NS } from "./ns";

/** The list of the newest stock client without `dtls-sctp`: the bridge channel of this page is a WebSocket. */
export const FEATURES = [
  "http://jabber.org/protocol/caps",
  "http://jitsi.org/json-encoded-sources",
  "http://jitsi.org/receive-multiple-video-streams",
  "http://jitsi.org/remb",
  "http://jitsi.org/source-name",
  "http://jitsi.org/start-muted-room-metadata",
  "http://jitsi.org/tcc",
  "http://jitsi.org/visitors-1",
  "urn:ietf:rfc:4588",
  "urn:xmpp:jingle:1",
  "urn:xmpp:jingle:apps:dtls:0",
  "urn:xmpp:jingle:apps:rtp:1",
  "urn:xmpp:jingle:apps:rtp:audio",
  "urn:xmpp:jingle:apps:rtp:video",
  "urn:xmpp:jingle:transports:ice-udp:1",
  "urn:xmpp:rayo:client:1",
] as const;

const NODE = "urn:tertulia:web";
/** base64(SHA-1) of the features, each followed by `<` (XEP-0115 §5.1). A test keeps it equal to the list. */
export const CAPS_HASH = "bCkpPTEpgXt0QtgIc2YVV/F3iys=";

export function capsElement(): Xml {
  return el("c", { xmlns: NS.caps, hash: "sha-1", node: NODE, ver: CAPS_HASH });
}

/** The answer to a disco#info request, or `null` when another node was asked for. */
export function discoAnswer(query: Xml): Xml | null {
  const node = attr(query, "node");
  if (node !== "" && node !== `${NODE}#${CAPS_HASH}`) return null;
  const features = FEATURES.map((feature) => el("feature", { var: feature }));
  return el("query", { xmlns: NS.disco, node: node === "" ? undefined : node }, ...features);
}

export function isDiscoRequest(iq: Xml): Xml | undefined {
  return attr(iq, "type") === "get" ? child(iq, "query", NS.disco) : undefined;
}
