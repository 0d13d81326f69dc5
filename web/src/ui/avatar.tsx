/** Stands for somebody whose camera is off: initials on a colour of their own. */

import type { JSX } from "preact";
import { Icon } from "./icons";

/** Hues that sit well with the page, light or dark; chosen by the name so that a person keeps theirs. */
const HUES = 8;

export function Avatar({ name, seed }: { readonly name: string; readonly seed: string }): JSX.Element {
  return (
    <span class={`avatar hue-${hueOf(name || seed)}`} aria-hidden="true">
      {initials(name) || <Icon name="person" />}
    </span>
  );
}

function initials(name: string): string {
  const words = name.split(/\s+/).filter((word) => word !== "");
  const letters = [words[0], words.length > 1 ? words.at(-1) : undefined].map((word) => [...(word ?? "")][0] ?? "");
  return letters.join("").toUpperCase();
}

function hueOf(text: string): number {
  let sum = 7;
  for (const c of text) sum = (sum * 31 + (c.codePointAt(0) ?? 0)) >>> 0;
  return sum % HUES;
}
