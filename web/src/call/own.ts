/** What the person does: devices, presence that tells of them, chat. */

import { ownAudio, ownCamera, ownShare, type SourceName } from "../model";
import { videoTypeMessage } from "../wire/channel";
import { CHAT_MAX, writeChat, type ChatMessage } from "../wire/chat";
import { NAME_MAX, writePresence, type SourceState, type SourceStates } from "../wire/presence";
import {
  isInRoom,
  isOn,
  occupantJid,
  type Call,
  type Device,
  type DeviceState,
  type Devices,
  type Effect,
  type InRoom,
  type Room,
  type Step,
} from "./state";

/** What others are told of the own sources: nothing before the bridge knows them. */
export function ownSourceStates(room: InRoom): SourceStates {
  const states = new Map<SourceName, SourceState>();
  if (room.session?.accept !== "active") return states;
  // The sound of a shared screen goes out with the microphone's, also when that is off.
  const heard = isOn(room.devices, "microphone") || hasSound(room.devices);
  states.set(ownAudio(room.self), { muted: !heard, videoType: "camera" });
  states.set(ownCamera(room.self), { muted: !isOn(room.devices, "camera"), videoType: "camera" });
  const share = ownShare(room.self);
  const known = room.session.signalled.some((source) => source.name === share);
  // The entry stays when a share ends: its SSRCs wait for the next one.
  if (known) states.set(share, { muted: !isOn(room.devices, "screen"), videoType: "desktop" });
  return states;
}

function hasSound({ screen }: Devices): boolean {
  return screen.kind === "on" && screen.sound === true;
}

export function presenceEffect(room: Room, joining = false): Effect {
  const own = { name: room.name, codecs: room.codecs, sources: ownSourceStates(room) };
  const join = joining ? { password: room.password } : null;
  return { kind: "send", stanza: writePresence(occupantJid(room, room.self), own, join) };
}

/** Tells the bridge what each own video source shows; "none" frees its place at the receivers. */
export function videoTypeEffects(room: InRoom): readonly Effect[] {
  if (!room.channelOpen || room.session === null) return [];
  const camera = videoTypeMessage(ownCamera(room.self), isOn(room.devices, "camera") ? "camera" : "none");
  const effects: Effect[] = [{ kind: "tell-bridge", text: camera }];
  if (room.session.local.some((source) => source.name === ownShare(room.self))) {
    effects.push({
      kind: "tell-bridge",
      text: videoTypeMessage(ownShare(room.self), isOn(room.devices, "screen") ? "desktop" : "none"),
    });
  }
  return effects;
}

export function toggle(call: Call, device: Device): Step {
  const wasOff = call.devices[device].kind === "off" || call.devices[device].kind === "trouble";
  // A screen is chosen for a meeting, not before one.
  if (device === "screen" && wasOff && call.kind !== "in") return { call, effects: [] };
  const changed = withDevice(call, device, { kind: wasOff ? "starting" : "off" });
  return { call: changed.call, effects: [{ kind: "device", device, on: wasOff }, ...changed.effects] };
}

/** A device came, went or failed. */
export function deviceChanged(call: Call, device: Device, state: DeviceState): Step {
  // What was switched off meanwhile stays off.
  if (call.devices[device].kind === "off" && state.kind !== "trouble") return { call, effects: [] };
  const changed = withDevice(call, device, state);
  // Before a meeting the page has a place of its own for it.
  if (state.kind !== "trouble" || !isInRoom(call)) return changed;
  return {
    call: changed.call,
    effects: [...changed.effects, { kind: "notice", notice: { kind: "trouble", device, trouble: state.trouble } }],
  };
}

/** Sets a device's state and, when others would see a difference, tells them. */
export function withDevice(call: Call, device: Device, state: DeviceState): Step {
  const devices = { ...call.devices, [device]: state };
  const next: Call = { ...call, devices };
  const same = isOn(call.devices, device) === isOn(devices, device) && hasSound(call.devices) === hasSound(devices);
  if (same || next.kind !== "in") return { call: next, effects: [] };
  return { call: next, effects: [...(device === "microphone" ? [] : videoTypeEffects(next)), presenceEffect(next)] };
}

/** The focus mutes on behalf of a moderator. */
export function mutedByOther(call: Call, device: "microphone" | "camera"): Step {
  if (!isOn(call.devices, device) && call.devices[device].kind !== "starting") return { call, effects: [] };
  const off = withDevice(call, device, { kind: "off" });
  return {
    call: off.call,
    effects: [
      { kind: "device", device, on: false },
      ...off.effects,
      { kind: "notice", notice: { kind: "muted-by-other", device } },
    ],
  };
}

export function rename(call: Call, name: string): Step {
  const next: Call = { ...call, name: cleanName(name) };
  return { call: next, effects: next.kind === "in" ? [presenceEffect(next)] : [] };
}

export function cleanName(name: string): string {
  return name.replace(/\s+/g, " ").trim().slice(0, NAME_MAX);
}

/** Lines kept; older ones fall away. */
const CHAT_LINES_MAX = 1000;

export function say(call: Call, body: string, id: string, at: number): Step {
  const trimmed = body.trim().slice(0, CHAT_MAX);
  if (call.kind !== "in" || trimmed === "") return { call, effects: [] };
  const line = { id, from: call.self, name: call.name, body: trimmed, at, own: true, isPrivate: false, pending: true };
  return {
    call: { ...call, chat: [...call.chat, line].slice(-CHAT_LINES_MAX) },
    effects: [{ kind: "send", stanza: writeChat(call.place.roomJid, id, trimmed) }],
  };
}

/** Says again what an earlier stay in the room may not have passed on. */
export function sayPending(room: Room): readonly Effect[] {
  return room.chat
    .filter((line) => line.pending)
    .map((line) => ({ kind: "send", stanza: writeChat(room.place.roomJid, line.id, line.body) }));
}

export function hearChat(call: Call, message: ChatMessage, at: number): Step {
  if (!isInRoom(call)) return { call, effects: [] };
  const known = message.id !== "" && call.chat.some((line) => line.id === message.id);
  if (known) {
    const chat = call.chat.map((line) => (line.id === message.id ? { ...line, pending: false } : line));
    return { call: { ...call, chat }, effects: [] };
  }
  const own = message.from === call.self;
  const name = own ? call.name : (call.endpoints.get(message.from)?.name ?? "");
  const line = {
    id: message.id,
    from: message.from,
    name,
    body: message.body,
    at: message.stamp ?? at,
    own,
    isPrivate: message.isPrivate,
    pending: false,
  };
  const isNews = !own && message.stamp === null;
  return {
    call: { ...call, chat: [...call.chat, line].slice(-CHAT_LINES_MAX) },
    effects: isNews ? [{ kind: "notice", notice: { kind: "chat", name, body: message.body } }] : [],
  };
}
