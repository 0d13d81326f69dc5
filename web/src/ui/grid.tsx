/** Everybody: equal tiles, or one large with the others beside it. */

import type { JSX } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { isInRoom } from "../call/state";
import { tilesOf, type Tile } from "../call/tiles";
import { words } from "../i18n/words";
import type { SourceName } from "../model";
import { arrange, type Space } from "./arrange";
import { TileSizes } from "./sizes";
import { stage as chosenStage, type Scene, type Stage } from "./store";
import { TileView } from "./tile";

const GAP_PX = 12;
const GAP_NARROW_PX = 8;
const NARROW_PX = 600;

export function Grid({ scene }: { readonly scene: Scene }): JSX.Element {
  const { meeting } = scene;
  const call = meeting.call.value;
  const tiles = isInRoom(call) ? tilesOf(call) : [];
  const stage = stageOf(tiles, chosenStage.value);
  const screens = tiles.filter((tile) => tile.shows === "screen" && !tile.own).length;
  // A new screen is worth a look even to who preferred the grid before.
  useEffect(() => {
    if (screens > 0 && chosenStage.peek().kind === "none") chosenStage.value = { kind: "best" };
  }, [screens]);
  const onStage = useRef<readonly SourceName[]>([]);
  onStage.current = stage === undefined || stage.own ? [] : [stage.source];
  const sizes = useMemo(
    () => new TileSizes((heights) => meeting.dispatch({ kind: "view", heights, onStage: onStage.current })),
    [meeting],
  );
  const rest = tiles.filter((tile) => tile !== stage);
  const view = (tile: Tile, large: boolean): JSX.Element => (
    <TileView
      key={`${tile.key}${large ? "!" : ""}`}
      tile={tile}
      scene={scene}
      sizes={sizes}
      stage={large}
      canEnlarge={tiles.length > 1}
    />
  );
  if (stage === undefined) return <Equal tiles={rest} view={(tile) => view(tile, false)} />;
  return (
    <section class="staged" aria-label={words.value.peopleRegion}>
      {view(stage, true)}
      <div class="strip">{rest.map((tile) => view(tile, false))}</div>
    </section>
  );
}

/** Who is large: the one that was chosen, else the newest screen of somebody else. */
function stageOf(tiles: readonly Tile[], chosen: Stage): Tile | undefined {
  if (chosen.kind === "none") return undefined;
  const tile = chosen.kind === "tile" ? tiles.find(({ key }) => key === chosen.key) : undefined;
  return tile ?? tiles.findLast(({ shows, own }) => shows === "screen" && !own);
}

function Equal({ tiles, view }: { readonly tiles: readonly Tile[]; readonly view: (tile: Tile) => JSX.Element }): JSX.Element {
  const element = useRef<HTMLElement>(null);
  const [space, setSpace] = useState<Space>({ width: 0, height: 0 });
  useEffect(() => {
    const node = element.current;
    if (node === null) return undefined;
    const observer = new ResizeObserver(([entry]) => {
      if (entry !== undefined) setSpace({ width: entry.contentRect.width, height: entry.contentRect.height });
    });
    observer.observe(node);
    return () => observer.disconnect();
  }, []);
  const gap = space.width < NARROW_PX ? GAP_NARROW_PX : GAP_PX;
  const size = arrange(tiles.length, space, gap);
  const style = { "--tile-width": `${size.width}px`, "--tile-height": `${size.height}px`, "--gap": `${gap}px` };
  return (
    <section ref={element} class="equal" style={style} aria-label={words.value.peopleRegion}>
      {tiles.map(view)}
    </section>
  );
}
