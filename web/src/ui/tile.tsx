/** One person or one screen. */

import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import type { Tile } from "../call/tiles";
import { words } from "../i18n/words";
import { Avatar } from "./avatar";
import { Icon } from "./icons";
import type { TileSizes } from "./sizes";
import { stage as chosenStage, type Scene } from "./store";
import { Video } from "./video";

export interface TileViewProps {
  readonly tile: Tile;
  readonly scene: Scene;
  readonly sizes: TileSizes;
  readonly stage: boolean;
  readonly canEnlarge: boolean;
}

export function TileView({ tile, scene, sizes, stage, canEnlarge }: TileViewProps): JSX.Element {
  const element = useRef<HTMLElement>(null);
  const { own, source, endpoint } = tile;
  useEffect(() => {
    const node = element.current;
    return node === null || own ? undefined : sizes.watch(node, source);
  }, [sizes, own, source]);
  const w = words.value;
  const speaking = tile.shows === "camera" && !tile.muted && scene.meeting.speaking.value.has(tile.audio);
  const name = tileName(tile);
  const track = own
    ? scene.devices.tracks.value.get(tile.shows === "screen" ? "screen" : "camera")
    : scene.meeting.tracks.value.get(source);
  const shown = tile.picture && !tile.paused;
  return (
    <article
      ref={element}
      id={tile.shows === "screen" ? undefined : own ? "localVideo_container" : `participant_${endpoint}`}
      class={`tile ${tile.shows} ${stage ? "stage" : ""} ${speaking ? "speaking" : ""} ${tile.lost ? "lost" : ""}`}
      data-testid="tile"
      data-endpoint={endpoint}
      data-source={source}
      data-muted={tile.muted}
      data-video={shown ? "on" : "off"}
      data-own={own}
      aria-label={[name, tile.muted && tile.shows === "camera" ? w.muted : "", tile.lost ? w.noConnection : ""].filter((part) => part !== "").join(", ")}
    >
      <Avatar name={tile.name} seed={endpoint} />
      {shown && (
        <Video track={track} mirrored={own && tile.shows === "camera"} label={name} id={stage ? "largeVideo" : undefined} />
      )}
      <footer class="plate">
        {tile.muted && tile.shows === "camera" && <Icon name="microphoneOff" />}
        {tile.shows === "screen" && <Icon name="screen" />}
        <span class="name">{name}</span>
        {tile.lost && <span class="hint">{w.noConnection}</span>}
        {tile.picture && tile.paused && <span class="hint late">{w.paused}</span>}
      </footer>
      {canEnlarge && (
        <button
          type="button"
          class="corner"
          data-testid="enlarge"
          aria-label={stage ? w.shrink : w.enlarge(name)}
          title={stage ? w.shrink : w.enlarge(name)}
          onClick={() => (chosenStage.value = stage ? { kind: "none" } : { kind: "tile", key: tile.key })}
        >
          <Icon name={stage ? "shrink" : "enlarge"} />
        </button>
      )}
    </article>
  );
}

export function tileName(tile: Tile): string {
  const w = words.value;
  const name = tile.name === "" ? w.guest : tile.name;
  if (tile.shows === "screen") return tile.own ? w.yourScreen : w.screenOf(name);
  return tile.own ? (tile.name === "" ? w.you : `${name} (${w.you})`) : name;
}
