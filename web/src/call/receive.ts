/** What to receive: the sizes of the tiles on the page, told to the bridge. */

import type { SourceName } from "../model";
import { constraintsMessage, type Constraints } from "../wire/channel";
import { isInRoom, type Call, type Effect, type Room, type Step } from "./state";

/** Until the page has measured a tile, and for what it does not show. */
const DEFAULT_HEIGHT = 180;

/** Tiles beside the one on the stage. */
const THUMBNAIL_HEIGHT = 180;

/** Encodings that senders have, with the tallest tile that each still looks well in, in device pixels. */
const STEPS = [
  { tile: 220, height: 180 },
  { tile: 450, height: 360 },
  { tile: 900, height: 720 },
  { tile: 1300, height: 1080 },
] as const;
const TALLEST = 2160;

/** Lines worth receiving for a tile; none for one that is out of view. */
export function heightFor(tilePx: number): number {
  if (tilePx <= 0) return 0;
  return STEPS.find((step) => tilePx <= step.tile)?.height ?? TALLEST;
}

/** A page out of sight keeps its pictures this long, so that a glance elsewhere costs nothing. */
const HIDDEN_AFTER_MS = 10_000;

export function view(call: Call, heights: ReadonlyMap<SourceName, number>, onStage: readonly SourceName[]): Step {
  return isInRoom(call) ? tell({ ...call, wishes: { ...call.wishes, heights, onStage } }) : { call, effects: [] };
}

export function visible(call: Call, isVisible: boolean): Step {
  if (!isInRoom(call)) return { call, effects: [] };
  if (!isVisible) return { call, effects: [{ kind: "timer", timer: "hidden", ms: HIDDEN_AFTER_MS }] };
  const step = tell({ ...call, wishes: { ...call.wishes, hidden: false } });
  return { call: step.call, effects: [{ kind: "cancel", timer: "hidden" }, ...step.effects] };
}

export function hide(call: Call): Step {
  return isInRoom(call) ? tell({ ...call, wishes: { ...call.wishes, hidden: true } }) : { call, effects: [] };
}

/** Sends the wishes if the bridge can be told and they differ from what it knows. */
export function tell(call: Room): Step {
  const wanted = constraintsOf(call);
  const text = constraintsMessage(wanted);
  if (!call.channelOpen || (call.wishes.told !== null && constraintsMessage(call.wishes.told) === text))
    return { call, effects: [] };
  const effect: Effect = { kind: "tell-bridge", text };
  return { call: { ...call, wishes: { ...call.wishes, told: wanted } }, effects: [effect] };
}

function constraintsOf({ wishes, endpoints }: Room): Constraints {
  const { onStage, hidden } = wishes;
  // Beside a stage all others are thumbnails, however many pixels a dense screen has for them.
  const isThumbnail = (name: SourceName): boolean => onStage.length > 0 && !onStage.includes(name);
  const height = (name: SourceName, px: number): number =>
    isThumbnail(name) ? Math.min(heightFor(px), THUMBNAIL_HEIGHT) : heightFor(px);
  const screens = [...endpoints.values()].flatMap(({ sources }) =>
    [...sources].flatMap(([name, state]) => (state.videoType === "desktop" && !state.muted ? [name] : [])),
  );
  return {
    lastN: hidden ? 0 : -1,
    onStage,
    // What is read comes before faces when there is not enough for all.
    selected: screens.filter((name) => (wishes.heights.get(name) ?? 0) > 0 && !onStage.includes(name)),
    heights: new Map([...wishes.heights].map(([name, px]) => [name, height(name, px)])),
    defaultMaxHeight: DEFAULT_HEIGHT,
  };
}
