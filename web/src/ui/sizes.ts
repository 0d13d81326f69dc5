/** How large each picture of others is on the page, told to the call now and then: one observer for all tiles. */

import type { SourceName } from "../model";

/** Sizes settle before they are told: a window being dragged is one change. */
const SETTLE_MS = 150;

export class TileSizes {
  readonly #told: (heights: ReadonlyMap<SourceName, number>) => void;
  readonly #sources = new Map<Element, SourceName>();
  readonly #heights = new Map<Element, number>();
  readonly #inView = new Map<Element, boolean>();
  readonly #resize: ResizeObserver;
  readonly #view: IntersectionObserver;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(told: (heights: ReadonlyMap<SourceName, number>) => void) {
    this.#told = told;
    this.#resize = new ResizeObserver((entries) => {
      for (const entry of entries) this.#heights.set(entry.target, entry.contentRect.height);
      this.#later();
    });
    this.#view = new IntersectionObserver((entries) => {
      for (const entry of entries) this.#inView.set(entry.target, entry.isIntersecting);
      this.#later();
    });
  }

  /** Returns the function that forgets the tile. */
  watch(element: Element, source: SourceName): () => void {
    this.#sources.set(element, source);
    this.#resize.observe(element);
    this.#view.observe(element);
    return () => {
      this.#resize.unobserve(element);
      this.#view.unobserve(element);
      this.#sources.delete(element);
      this.#heights.delete(element);
      this.#inView.delete(element);
      this.#later();
    };
  }

  #later(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      const heights = new Map<SourceName, number>();
      for (const [element, source] of this.#sources) {
        const shown = this.#inView.get(element) !== false;
        const height = shown ? Math.round((this.#heights.get(element) ?? 0) * window.devicePixelRatio) : 0;
        heights.set(source, Math.max(height, heights.get(source) ?? 0));
      }
      this.#told(heights);
    }, SETTLE_MS);
  }
}
