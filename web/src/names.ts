/** Names for new meetings: made of syllables that English and Spanish speakers read aloud the same way, and hard to guess. */

/** No letters that sound alike or differ between the two languages: no b beside v, no c, h, j, q, w, x, y, z. */
const ONSETS = ["b", "d", "f", "k", "l", "m", "n", "p", "r", "s", "t", "ch", "br", "tr", "pl", "fl"] as const;
const VOWELS = ["a", "e", "i", "o", "u"] as const;
/** Syllables of each word. */
const SHAPE = [3, 2, 3] as const;

/** What a name must not contain, across the words too. */
const UNWANTED = [
  "puta",
  "pedo",
  "teta",
  "pene",
  "kaka",
  "nazi",
  "nigr",
  "nigo",
  "negro",
  "rape",
  "slut",
  "fuk",
  "porn",
  "mier",
  "pito",
  "tonto",
  "bobo",
  "mamada",
] as const;

export const NAME_BITS = Math.log2(ONSETS.length * VOWELS.length) * SHAPE.reduce<number>((sum, count) => sum + count, 0);

/** A uniform number below `limit` from random 32-bit words: values that would favour the low ones are thrown away. */
export function uniform(limit: number, random: () => number): number {
  const ceiling = 0x1_0000_0000 - (0x1_0000_0000 % limit);
  for (;;) {
    const value = random();
    if (value < ceiling) return value % limit;
  }
}

export function meetingName(random: () => number): string {
  const pick = <T>(list: readonly T[]): T => list[uniform(list.length, random)] as T;
  for (;;) {
    const name = SHAPE.map((count) => Array.from({ length: count }, () => pick(ONSETS) + pick(VOWELS)).join("")).join("-");
    const letters = name.replaceAll("-", "");
    if (!UNWANTED.some((word) => letters.includes(word))) return name;
  }
}
