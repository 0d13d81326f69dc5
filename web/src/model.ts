/** The page's own words: ids that must not be mixed up, and the sources that others send. */

declare const brand: unique symbol;
export type Brand<T, Name extends string> = T & { readonly [brand]: Name };

/** Eight hexadecimal digits that name one occupant, participant and endpoint: the MUC resource. */
export type EndpointId = Brand<string, "EndpointId">;
/** `<endpoint>-a0`, `-v0`, `-v1`: one sent stream, whatever its layers. */
export type SourceName = Brand<string, "SourceName">;
/** The node of the room's address: lower-case and percent-encoded. */
export type RoomName = Brand<string, "RoomName">;

export type MediaKind = "audio" | "video";
export type VideoType = "camera" | "desktop";

/** A stream as signalled: its SSRCs with their groups. */
export interface Source {
  readonly name: SourceName;
  /** Whose it is; `jvb` marks the bridge's own. */
  readonly owner: string;
  readonly kind: MediaKind;
  readonly videoType: VideoType;
  readonly ssrcs: readonly number[];
  readonly groups: readonly SsrcGroup[];
  readonly msid: string;
}

/** `SIM`: encodings, lowest first. `FID`: a stream and its retransmissions. */
export interface SsrcGroup {
  readonly semantics: string;
  readonly ssrcs: readonly number[];
}

/** The bridge itself as an owner of sources: they carry RTCP only. */
export const BRIDGE_OWNER = "jvb";

/** What a name may hold; it is written into SDP, so nothing that could end a line. */
const SAFE_NAME = /^[A-Za-z0-9_.-]{1,64}$/;

export function sourceName(text: string): SourceName | null {
  return SAFE_NAME.test(text) ? (text as SourceName) : null;
}

export function endpointId(text: string): EndpointId | null {
  return /^[A-Za-z0-9_]{1,64}$/.test(text) ? (text as EndpointId) : null;
}

export const ownAudio = (id: EndpointId): SourceName => `${id}-a0` as SourceName;
export const ownCamera = (id: EndpointId): SourceName => `${id}-v0` as SourceName;
export const ownShare = (id: EndpointId): SourceName => `${id}-v1` as SourceName;
