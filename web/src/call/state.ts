/** The call as data: what a person's meeting is at any moment, and what can happen to it. */

import type { EndpointId, RoomName, Source, SourceName } from "../model";
import type { Constraints, FromBridge } from "../wire/channel";
import type { IceServer } from "../wire/chat";
import type { Answer, Offer, SessionRef, Transport } from "../wire/jingle";
import type { JoinRefusal, SourceStates } from "../wire/presence";
import type { Xml } from "../wire/xml";

/** Where the meeting is, from the address bar and the server's configuration. */
export interface Place {
  readonly room: RoomName;
  /** The room's address. */
  readonly roomJid: string;
  /** Who is asked for the conference. */
  readonly focus: string;
  readonly machineUid: string;
  /** Accounts of this domain (recorders, transcribers) are in the room without being shown. */
  readonly hiddenDomain: string;
}

export type Device = "microphone" | "camera" | "screen";

/** Why a device is not there; each has its own words. */
export type Trouble = "refused" | "missing" | "busy" | "unsuitable" | "insecure" | "failed";

export type DeviceState =
  | { readonly kind: "off" }
  | { readonly kind: "starting" }
  /** `sound`: a screen that is heard, too. */
  | { readonly kind: "on"; readonly sound?: boolean }
  | { readonly kind: "trouble"; readonly trouble: Trouble };

export type Devices = Readonly<Record<Device, DeviceState>>;

export interface ChatLine {
  readonly id: string;
  readonly from: EndpointId | null;
  readonly name: string;
  readonly body: string;
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly own: boolean;
  readonly isPrivate: boolean;
  /** The room has not passed it on yet. */
  readonly pending: boolean;
}

export interface Endpoint {
  readonly id: EndpointId;
  readonly name: string;
  readonly jid: string;
  readonly moderator: boolean;
  readonly sources: SourceStates;
  /** The bridge has not heard from it for a while. */
  readonly lost: boolean;
}

/** The media session with the bridge (XEP-0166), named by what it awaits. */
export interface Session {
  readonly ref: SessionRef;
  readonly from: string;
  readonly offer: Offer;
  readonly accept: "answering" | "accepting" | "active";
  /** Sources of others, by name. */
  readonly remote: ReadonlyMap<SourceName, Source>;
  /** Own sources as the focus knows them. */
  readonly signalled: readonly Source[];
  /** Own sources as this browser has them. */
  readonly local: readonly Source[];
  /** Last ICE generation applied. */
  readonly generation: number;
  readonly ice: "connecting" | "connected" | "interrupted" | "restarting";
}

/** What stays over a rejoin. */
export interface Common {
  readonly place: Place;
  readonly name: string;
  readonly devices: Devices;
  readonly codecs: readonly string[];
  readonly chat: readonly ChatLine[];
  /** Times this meeting was rejoined since it last held for a while. */
  readonly rejoins: number;
  readonly iceServers: readonly IceServer[];
  /** The meeting's password, as far as the person has said one; empty otherwise. */
  readonly password: string;
}

/** A room's life, shared by "entering" and "in". */
export interface InRoom extends Common {
  readonly self: EndpointId;
  readonly jid: string;
  readonly endpoints: ReadonlyMap<EndpointId, Endpoint>;
  readonly session: Session | null;
  readonly moderator: boolean;
  readonly dominant: EndpointId | null;
  /** What the bridge sends now; `null` before it has said. */
  readonly forwarded: ReadonlySet<SourceName> | null;
  readonly wishes: Wishes;
  readonly channelOpen: boolean;
  /** The signalling socket. Media do not need it. */
  readonly link: "up" | "lost";
  /** ICE restarts in a row without a connection. */
  readonly restarts: number;
}

/** What the page shows, so what is worth receiving. */
export interface Wishes {
  /** Height of each shown tile, in device pixels. */
  readonly heights: ReadonlyMap<SourceName, number>;
  readonly onStage: readonly SourceName[];
  /** Nobody looks: sound only. */
  readonly hidden: boolean;
  /** As last told to the bridge. */
  readonly told: Constraints | null;
}

export type Call =
  | ({ readonly kind: "idle" } & Common)
  | ({ readonly kind: "connecting" } & Common)
  | ({ readonly kind: "asking"; readonly jid: string; readonly nick: EndpointId; readonly asked: number } & Common)
  /** The room wants a password; `wrong` when one was tried. */
  | ({ readonly kind: "locked"; readonly jid: string; readonly nick: EndpointId; readonly wrong: boolean } & Common)
  | ({ readonly kind: "entering" } & InRoom)
  | ({ readonly kind: "in" } & InRoom)
  /** `had` is what to switch on again when the person comes back. */
  | ({ readonly kind: "left"; readonly why: LeaveReason; readonly had: readonly Device[] } & Common);

export type LeaveReason =
  | { readonly kind: "own" }
  | { readonly kind: "kicked"; readonly text: string }
  | { readonly kind: "ended"; readonly text: string }
  | { readonly kind: "refused"; readonly why: Exclude<JoinRefusal, "password"> }
  | { readonly kind: "no-conference"; readonly text: string }
  | { readonly kind: "unreachable" }
  | { readonly kind: "lost" }
  | { readonly kind: "no-media" };

/** What can happen. `at` is milliseconds since 1970. */
export type CallEvent =
  // wishes of the person
  | { readonly kind: "join"; readonly name: string }
  | { readonly kind: "unlock"; readonly password: string }
  | { readonly kind: "leave" }
  | { readonly kind: "rename"; readonly name: string }
  | { readonly kind: "toggle"; readonly device: Device }
  | { readonly kind: "say"; readonly body: string; readonly id: string; readonly at: number }
  | { readonly kind: "view"; readonly heights: ReadonlyMap<SourceName, number>; readonly onStage: readonly SourceName[] }
  | { readonly kind: "visible"; readonly visible: boolean }
  // signalling
  | { readonly kind: "link-up"; readonly jid: string; readonly resumed: boolean; readonly nick: EndpointId }
  | { readonly kind: "link-lost" }
  | { readonly kind: "link-failed" }
  | { readonly kind: "stanza"; readonly stanza: Xml; readonly at: number }
  | { readonly kind: "answer"; readonly tag: IqTag; readonly iq: Xml | null }
  // media
  | { readonly kind: "device"; readonly device: Device; readonly state: DeviceState }
  | { readonly kind: "answered"; readonly sid: string; readonly answer: Answer; readonly sources: readonly Source[] }
  | { readonly kind: "local-sources"; readonly sid: string; readonly sources: readonly Source[] }
  | { readonly kind: "restarted"; readonly sid: string; readonly transport: Transport; readonly generation: number }
  | { readonly kind: "negotiation-failed"; readonly sid: string }
  | { readonly kind: "ice"; readonly sid: string; readonly state: "connected" | "interrupted" | "failed" }
  | { readonly kind: "channel"; readonly open: boolean }
  | { readonly kind: "bridge"; readonly message: FromBridge }
  // time
  | { readonly kind: "timer"; readonly timer: Timer };

/** All deadlines that exist. */
export type Timer =
  /** Ask for the conference again. */
  | "ask-again"
  /** A meeting that held this long may be rejoined again. */
  | "settled"
  /** ICE did not come back by itself. */
  | "ice-restart"
  /** An in-place restart did not help. */
  | "ice-recovery"
  /** The page has been out of sight for a while. */
  | "hidden";

/** Which request an IQ answer belongs to. */
export type IqTag =
  | { readonly of: "conference" }
  | { readonly of: "accept"; readonly sid: string }
  | { readonly of: "sources"; readonly sid: string }
  | { readonly of: "ice-restart"; readonly sid: string }
  | { readonly of: "terminate-restart"; readonly sid: string }
  | { readonly of: "transport"; readonly sid: string };

/** What has to be done; the shells do it in order. */
export type Effect =
  | { readonly kind: "connect"; readonly fresh: boolean }
  /** Says goodbye with these stanzas and closes. */
  | { readonly kind: "disconnect"; readonly last: readonly Xml[] }
  | { readonly kind: "send"; readonly stanza: Xml }
  | { readonly kind: "request"; readonly stanza: Xml; readonly tag: IqTag; readonly patienceMs: number | null }
  | { readonly kind: "device"; readonly device: Device; readonly on: boolean }
  | { readonly kind: "release-devices" }
  | {
      readonly kind: "open-session";
      readonly ref: SessionRef;
      readonly offer: Offer;
      readonly self: EndpointId;
      readonly iceServers: readonly IceServer[];
    }
  | { readonly kind: "remote-sources"; readonly sid: string; readonly sources: readonly Source[] }
  | { readonly kind: "restart-ice"; readonly sid: string; readonly transport: Transport; readonly generation: number }
  | { readonly kind: "add-candidates"; readonly sid: string; readonly candidates: readonly string[] }
  | { readonly kind: "limit-encodings"; readonly source: SourceName; readonly maxHeight: number }
  | { readonly kind: "close-session" }
  | { readonly kind: "tell-bridge"; readonly text: string }
  | { readonly kind: "timer"; readonly timer: Timer; readonly ms: number }
  | { readonly kind: "cancel"; readonly timer: Timer }
  | { readonly kind: "notice"; readonly notice: Notice };

/** Something worth a line on the screen and a word to a screen reader. */
export type Notice =
  | { readonly kind: "joined"; readonly name: string }
  | { readonly kind: "left"; readonly name: string }
  | { readonly kind: "chat"; readonly name: string; readonly body: string }
  | { readonly kind: "sharing"; readonly name: string }
  | { readonly kind: "muted-by-other"; readonly device: "microphone" | "camera" }
  | { readonly kind: "trouble"; readonly device: Device; readonly trouble: Trouble }
  | { readonly kind: "back" }
  | { readonly kind: "no-bridge" };

export interface Step {
  readonly call: Call;
  readonly effects: readonly Effect[];
}

/** A call that has a place in the room, or is about to. */
export type Room = Extract<Call, { kind: "entering" | "in" }>;

export function isInRoom(call: Call): call is Room {
  return call.kind === "entering" || call.kind === "in";
}

/** The address of an occupant. */
export function occupantJid(call: { readonly place: Place }, nick: string): string {
  return `${call.place.roomJid}/${nick}`;
}

/** The nick that only the focus has. */
export const FOCUS_NICK = "focus";

/** Whether a device sends something. */
export function isOn(devices: Devices, device: Device): boolean {
  return devices[device].kind === "on";
}
