/** Asking the focus for the conference before joining the room. */

import { attr, child, children, el, type Xml } from "./xml";
import { NS } from "./ns";

export function conferenceRequest(focus: string, room: string, machineUid: string): Xml {
  return el(
    "iq",
    { xmlns: NS.client, type: "set", to: focus },
    el(
      "conference",
      { xmlns: NS.focus, room, "machine-uid": machineUid },
      el("property", { name: "rtcstatsEnabled", value: "false" }),
      el("property", { name: "visitors-version", value: "1" }),
    ),
  );
}

export type ConferenceAnswer =
  | { readonly kind: "ready"; readonly focusJid: string }
  | { readonly kind: "not-ready" }
  /** Only somebody with an account may open this room; ask again in a while. */
  | { readonly kind: "wait" }
  | { readonly kind: "refused"; readonly text: string };

export function parseConferenceAnswer(iq: Xml): ConferenceAnswer {
  if (attr(iq, "type") === "error") {
    const error = child(iq, "error");
    if (child(error, "not-authorized") !== undefined) return { kind: "wait" };
    const text = error === undefined ? undefined : children(error).find((node) => node.name === "text");
    return { kind: "refused", text: text?.nodes.filter((node) => typeof node === "string").join("") ?? "" };
  }
  const conference = child(iq, "conference", NS.focus);
  if (attr(conference, "ready") !== "true") return { kind: "not-ready" };
  return { kind: "ready", focusJid: attr(conference, "focusjid") };
}
