/** XML as plain values: read from a DOM by the shell, written as text. Nothing here needs a browser. */

export interface Xml {
  readonly name: string;
  /** `null` while building means "as the parent"; what was read always has one. */
  readonly ns: string | null;
  readonly attrs: Readonly<Record<string, string>>;
  readonly nodes: readonly (Xml | string)[];
}

export type Attrs = Readonly<Record<string, string | number | undefined>>;

/** Builds an element; `xmlns` among the attributes starts a namespace. Undefined attributes are left out. */
export function el(name: string, attrs: Attrs = {}, ...nodes: readonly (Xml | string)[]): Xml {
  const kept: Record<string, string> = {};
  for (const [key, value] of Object.entries(attrs)) {
    if (key !== "xmlns" && value !== undefined) kept[key] = String(value);
  }
  const ns = attrs["xmlns"];
  return { name, ns: ns === undefined ? null : String(ns), attrs: kept, nodes };
}

const ESCAPES: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;" };

/** Characters that XML 1.0 forbids even as references; people paste them into chats. */
const FORBIDDEN =
  /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

export function escape(text: string): string {
  return text.replace(FORBIDDEN, "").replace(/[&<>"']/g, (c) => ESCAPES[c] ?? c);
}

/** Writes an element; `xmlns` is written wherever it differs from the parent's, and always on the root. */
export function write(xml: Xml, parentNs: string | null = null): string {
  const ns = xml.ns ?? parentNs ?? "jabber:client";
  let out = `<${xml.name}`;
  if (ns !== parentNs) out += ` xmlns="${escape(ns)}"`;
  for (const [key, value] of Object.entries(xml.attrs)) out += ` ${key}="${escape(value)}"`;
  if (xml.nodes.length === 0) return `${out}/>`;
  out += ">";
  for (const node of xml.nodes) out += typeof node === "string" ? escape(node) : write(node, ns);
  return `${out}</${xml.name}>`;
}

/** The part of a DOM element that is needed to read it. */
export interface DomElement {
  readonly localName: string | null;
  readonly namespaceURI: string | null;
  readonly attributes: { readonly length: number; item(index: number): { readonly name: string; readonly value: string } | null };
  readonly childNodes: { readonly length: number; item(index: number): DomNode | null };
}
interface DomNode {
  readonly nodeType: number;
  readonly nodeValue: string | null;
}

export function fromDom(element: DomElement): Xml {
  const attrs: Record<string, string> = {};
  for (let i = 0; i < element.attributes.length; i++) {
    const attr = element.attributes.item(i);
    if (attr !== null && attr.name !== "xmlns") attrs[attr.name] = attr.value;
  }
  const nodes: (Xml | string)[] = [];
  for (let i = 0; i < element.childNodes.length; i++) {
    const node = element.childNodes.item(i);
    if (node === null) continue;
    if (node.nodeType === 1) nodes.push(fromDom(node as unknown as DomElement));
    else if (node.nodeType === 3 || node.nodeType === 4) nodes.push(node.nodeValue ?? "");
  }
  return { name: element.localName ?? "", ns: element.namespaceURI, attrs, nodes };
}

/** Child elements, by name and namespace where given. */
export function children(xml: Xml, name?: string, ns?: string): readonly Xml[] {
  return xml.nodes.filter(
    (node): node is Xml =>
      typeof node !== "string" && (name === undefined || node.name === name) && (ns === undefined || node.ns === ns),
  );
}

export function child(xml: Xml | undefined, name?: string, ns?: string): Xml | undefined {
  return xml === undefined ? undefined : children(xml, name, ns)[0];
}

export function text(xml: Xml | undefined): string {
  if (xml === undefined) return "";
  return xml.nodes.map((node) => (typeof node === "string" ? node : text(node))).join("");
}

export function attr(xml: Xml | undefined, name: string): string {
  return xml?.attrs[name] ?? "";
}

/** The part after the slash; empty when there is none. */
export function resource(jid: string): string {
  const slash = jid.indexOf("/");
  return slash < 0 ? "" : jid.slice(slash + 1);
}

export function bare(jid: string): string {
  const slash = jid.indexOf("/");
  return slash < 0 ? jid : jid.slice(0, slash);
}
