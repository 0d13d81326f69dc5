/** Reads stanzas in tests as the socket's shell does in the browser. */

import { DOMParser } from "@xmldom/xmldom";
import { fromDom, type Xml } from "../src/wire/xml";

export function read(text: string): Xml {
  const squeezed = text.replace(/>\s+</g, "><").trim();
  const root = new DOMParser().parseFromString(squeezed, "text/xml").documentElement;
  if (root === null) throw new Error("no element");
  return fromDom(root);
}
