/** What there is to see: a tile for everybody, and one for every shared screen. */

import { ownAudio, ownCamera, ownShare, sourceName, type EndpointId, type SourceName } from "../model";
import { isOn, type Endpoint, type InRoom } from "./state";

export interface Tile {
  /** Stable over changes of what it shows. */
  readonly key: string;
  readonly endpoint: EndpointId;
  readonly source: SourceName;
  readonly shows: "camera" | "screen";
  readonly own: boolean;
  readonly name: string;
  readonly muted: boolean;
  /** There should be a moving picture. */
  readonly picture: boolean;
  /** The bridge holds this picture back for now. */
  readonly paused: boolean;
  readonly moderator: boolean;
  readonly lost: boolean;
  /** Whose sound frames this tile. */
  readonly audio: SourceName;
}

/** Oneself first, then the others as they came; screens before all. */
export function tilesOf(room: InRoom): readonly Tile[] {
  const people = [ownTile(room), ...[...room.endpoints.values()].map((endpoint) => cameraTile(room, endpoint))];
  const screens = [...ownScreen(room), ...[...room.endpoints.values()].flatMap((endpoint) => screenTiles(room, endpoint))];
  return [...screens, ...people];
}

function ownTile(room: InRoom): Tile {
  return {
    key: room.self,
    endpoint: room.self,
    source: ownCamera(room.self),
    shows: "camera",
    own: true,
    name: room.name,
    muted: !isOn(room.devices, "microphone"),
    picture: isOn(room.devices, "camera"),
    paused: false,
    moderator: room.moderator,
    lost: false,
    audio: ownAudio(room.self),
  };
}

function ownScreen(room: InRoom): readonly Tile[] {
  if (!isOn(room.devices, "screen")) return [];
  return [{ ...ownTile(room), key: ownShare(room.self), source: ownShare(room.self), shows: "screen", picture: true }];
}

function cameraTile(room: InRoom, endpoint: Endpoint): Tile {
  const name = sourceOf(room, endpoint, "camera") ?? ownCamera(endpoint.id);
  const state = endpoint.sources.get(name);
  const audio = ownAudio(endpoint.id);
  const sends = room.session?.remote.has(name) === true;
  return {
    key: endpoint.id,
    endpoint: endpoint.id,
    source: name,
    shows: "camera",
    own: false,
    name: endpoint.name,
    // Who has no microphone source yet cannot be heard either.
    muted: endpoint.sources.get(audio)?.muted ?? room.session?.remote.has(audio) !== true,
    picture: sends && state?.muted !== true,
    paused: held(room, name),
    moderator: endpoint.moderator,
    lost: endpoint.lost,
    audio,
  };
}

function screenTiles(room: InRoom, endpoint: Endpoint): readonly Tile[] {
  const camera = cameraTile(room, endpoint);
  return [...endpoint.sources].flatMap(([name, state]): Tile[] => {
    if (state.videoType !== "desktop" || state.muted || room.session?.remote.has(name) !== true) return [];
    return [{ ...camera, key: name, source: name, shows: "screen", picture: true, paused: held(room, name) }];
  });
}

function sourceOf(room: InRoom, endpoint: Endpoint, type: "camera"): SourceName | null {
  for (const source of room.session?.remote.values() ?? []) {
    if (source.owner === endpoint.id && source.kind === "video" && source.videoType === type) return sourceName(source.name);
  }
  return null;
}

function held(room: InRoom, name: SourceName): boolean {
  return room.forwarded !== null && !room.forwarded.has(name);
}
