/** The language of the page: `?lang=`, else the first of the browser's that there is. */

import { signal } from "@preact/signals";
import { en, type Words } from "./en";

export type Language = "en" | "es";

/** The words of the chosen language; English until another one is loaded. */
export const words = signal<Words>(en);

const LOADERS: Readonly<Record<Language, () => Promise<Words>>> = {
  en: () => Promise.resolve(en),
  es: async () => (await import("./es")).es,
};

export function pickLanguage(asked: string | null, preferred: readonly string[]): Language {
  for (const tag of [asked ?? "", ...preferred]) {
    const [primary = ""] = tag.toLowerCase().split(/[-_]/);
    if (Object.hasOwn(LOADERS, primary)) return primary as Language;
  }
  return "en";
}

export async function loadWords(language: Language): Promise<void> {
  words.value = await LOADERS[language]();
  document.documentElement.lang = language;
}
