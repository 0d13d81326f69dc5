/** How a meeting ends, and how it is joined again when it broke. */

import { leavePresence } from "../wire/presence";
import { isInRoom, isOn, occupantJid, type Call, type Common, type Effect, type LeaveReason, type Step } from "./state";

/** Fields of every call, without those of a stay in the room. */
export function common(call: Call): Common {
  const { place, name, devices, codecs, chat, rejoins, iceServers, password } = call;
  return { place, name, devices, codecs, chat, rejoins, iceServers, password };
}

const ALL_TIMERS = ["ask-again", "settled", "ice-restart", "ice-recovery", "hidden"] as const;

function quiet(call: Call, goodbye: boolean): readonly Effect[] {
  const last = goodbye && isInRoom(call) ? [leavePresence(occupantJid(call, call.self))] : [];
  return [
    ...ALL_TIMERS.map((timer): Effect => ({ kind: "cancel", timer })),
    { kind: "close-session" },
    { kind: "disconnect", last },
  ];
}

/** Ends the meeting; `goodbye` when the room still thinks that we are in. */
export function leave(call: Call, why: LeaveReason, goodbye: boolean): Step {
  if (call.kind === "idle" || call.kind === "left") return { call, effects: [] };
  const had = (["microphone", "camera"] as const).filter((device) => isOn(call.devices, device));
  const off = { kind: "off" } as const;
  return {
    call: { kind: "left", why, had, ...common(call), devices: { microphone: off, camera: off, screen: off } },
    effects: [...quiet(call, goodbye), { kind: "release-devices" }],
  };
}

/** One more try by itself: a person should not have to press reload for a hiccup. */
const REJOINS_MAX = 1;

/** Joins the same meeting anew as another occupant, once; `why` is told if that was tried already. */
export function rejoin(call: Call, why: LeaveReason): Step {
  if (call.rejoins >= REJOINS_MAX) return leave(call, why, true);
  return {
    call: { kind: "connecting", ...common(call), rejoins: call.rejoins + 1 },
    effects: [...quiet(call, true), { kind: "connect", fresh: true }],
  };
}
