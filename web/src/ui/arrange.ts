/** How tiles fill a space: sizes only. */

export interface Space {
  readonly width: number;
  readonly height: number;
}
export interface TileSize {
  readonly width: number;
  readonly height: number;
}

const WIDEST = 16 / 9;
/** On a phone held upright tiles may be taller than wide; elsewhere they keep the shape of a picture. */
const NARROW_SPACE_PX = 600;
const TALLEST_NARROW = 3 / 4;
const TALLEST_WIDE = 4 / 3;
/** Smaller tiles are of no use: from there on the page scrolls. */
const LOWEST_PX = 96;

/** The largest equal tiles for `count` people in this space. */
export function arrange(count: number, space: Space, gap: number): TileSize {
  const tallest = space.width < NARROW_SPACE_PX ? TALLEST_NARROW : TALLEST_WIDE;
  let best: TileSize = { width: 0, height: 0 };
  for (let columns = 1; columns <= Math.max(1, count); columns++) {
    const rows = Math.ceil(count / columns);
    const fit = shape((space.width - gap * (columns - 1)) / columns, (space.height - gap * (rows - 1)) / rows, tallest);
    if (fit.width * fit.height > best.width * best.height) best = fit;
  }
  if (best.height >= LOWEST_PX || count <= 1) return floor(best);
  const height = Math.min(LOWEST_PX, space.height);
  return floor(shape(Math.min(space.width, height * WIDEST), height, tallest));
}

/** The largest shape between `tallest` and 16:9 that fits. */
function shape(width: number, height: number, tallest: number): TileSize {
  if (width <= 0 || height <= 0) return { width: 0, height: 0 };
  const ratio = width / height;
  if (ratio > WIDEST) return { width: height * WIDEST, height };
  return ratio < tallest ? { width, height: width / tallest } : { width, height };
}

function floor(size: TileSize): TileSize {
  return { width: Math.floor(size.width), height: Math.floor(size.height) };
}
