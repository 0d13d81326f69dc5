/** Sources on the wire: the focus's compact JSON and the XML form, read; XML, written. */

import { BRIDGE_OWNER, sourceName, type MediaKind, type Source, type SourceName, type SsrcGroup, type VideoType } from "../model";
import { attr, child, children, el, text, type Xml } from "./xml";
import { NS } from "./ns";

const SSRC_MAX = 0xffff_ffff;

interface Member {
  readonly ssrc: number;
  readonly name: SourceName;
  readonly owner: string;
  readonly kind: MediaKind;
  readonly videoType: VideoType;
  readonly msid: string;
}

/** All sources of a Jingle action: those in its contents and those in its `json-message`. Malformed ones are left out. */
export function parseSources(jingle: Xml): readonly Source[] {
  const found = children(jingle, "content").flatMap(parseContent);
  const json = child(jingle, "json-message", NS.jitmeet);
  return json === undefined ? found : [...found, ...parseJson(text(json))];
}

function parseContent(content: Xml): readonly Source[] {
  const description = child(content, "description", NS.rtp);
  const media = attr(description, "media") || attr(content, "name");
  if (description === undefined || (media !== "audio" && media !== "video")) return [];
  const members: Member[] = [];
  for (const source of children(description, "source", NS.ssma)) {
    const info = child(source, "ssrc-info", NS.jitmeet);
    const owner = attr(info, "owner");
    const ownerId = owner.includes("/") ? owner.slice(owner.indexOf("/") + 1) : owner;
    // The bridge's own sources need not be named.
    const name = sourceName(attr(source, "name") || (ownerId === BRIDGE_OWNER ? `${BRIDGE_OWNER}-${media[0] ?? ""}0` : ""));
    const ssrc = parseSsrc(attr(source, "ssrc"));
    if (name === null || ssrc === null) continue;
    // Any namespace: the focus writes the parameter in one, clients in another.
    const msid = children(source, "parameter").find((p) => attr(p, "name") === "msid");
    members.push({
      ssrc,
      name,
      owner: ownerId || ownerOf(name),
      kind: media,
      videoType: attr(source, "videoType").toLowerCase() === "desktop" ? "desktop" : "camera",
      msid: attr(msid, "value"),
    });
  }
  const groups = children(description, "ssrc-group", NS.ssma).map((group) => ({
    semantics: attr(group, "semantics"),
    ssrcs: children(group, "source").flatMap((source) => parseSsrc(attr(source, "ssrc")) ?? []),
  }));
  return collect(members, groups);
}

function parseSsrc(value: string): number | null {
  const ssrc = /^\d{1,10}$/.test(value) ? Number(value) : 0;
  return ssrc > 0 && ssrc <= SSRC_MAX ? ssrc : null;
}

/** The owner that a source's name implies. */
export function ownerOf(name: SourceName): string {
  return name.slice(0, Math.max(0, name.lastIndexOf("-")));
}

function parseJson(json: string): readonly Source[] {
  let message: unknown;
  try {
    message = JSON.parse(json);
  } catch {
    return [];
  }
  if (!isRecord(message) || !isRecord(message["sources"])) return [];
  return Object.entries(message["sources"]).flatMap(([owner, set]) => {
    if (!Array.isArray(set)) return [];
    const [video, videoGroups, audio, audioGroups] = set as unknown[];
    return [
      ...collect(parseMembers(owner, "video", video), parseGroups(videoGroups)),
      ...collect(parseMembers(owner, "audio", audio), parseGroups(audioGroups)),
    ];
  });
}

function parseMembers(owner: string, kind: MediaKind, list: unknown): readonly Member[] {
  if (!Array.isArray(list)) return [];
  return list.flatMap((entry: unknown) => {
    if (!isRecord(entry)) return [];
    const ssrc = parseSsrc(String(entry["s"]));
    const given = typeof entry["n"] === "string" ? entry["n"] : `${owner}-${kind === "audio" ? "a0" : "v0"}`;
    const name = sourceName(given);
    if (ssrc === null || name === null) return [];
    const msid = typeof entry["m"] === "string" ? entry["m"] : "";
    return [{ ssrc, name, owner, kind, videoType: entry["v"] ? ("desktop" as const) : ("camera" as const), msid }];
  });
}

function parseGroups(list: unknown): readonly SsrcGroup[] {
  if (!Array.isArray(list)) return [];
  return list.flatMap((entry: unknown) => {
    if (!Array.isArray(entry)) return [];
    const [letter, ...ssrcs] = entry as unknown[];
    const semantics = letter === "f" ? "FID" : letter === "s" ? "SIM" : null;
    return semantics === null ? [] : [{ semantics, ssrcs: ssrcs.flatMap((ssrc) => parseSsrc(String(ssrc)) ?? []) }];
  });
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Gathers SSRCs under their names, and each group under the name that all its members bear. */
function collect(members: readonly Member[], groups: readonly SsrcGroup[]): readonly Source[] {
  const byName = new Map<SourceName, Member[]>();
  for (const member of members) {
    const list = byName.get(member.name);
    if (list === undefined) byName.set(member.name, [member]);
    else list.push(member);
  }
  return [...byName.values()].flatMap((list) => {
    const first = list[0];
    if (first === undefined) return [];
    const ssrcs = list.map((member) => member.ssrc);
    const own = groups.filter((group) => group.ssrcs.length > 1 && group.ssrcs.every((ssrc) => ssrcs.includes(ssrc)));
    const { name, owner, kind, videoType, msid } = first;
    return [{ name, owner, kind, videoType, msid, ssrcs, groups: own }];
  });
}

/** The stream that packets come under: the first of the SIM group, else of the FID group, else the lone one. */
export function primarySsrc(source: Source): number | undefined {
  const sim = source.groups.find((group) => group.semantics === "SIM");
  const fid = source.groups.find((group) => group.semantics === "FID");
  return (sim ?? fid)?.ssrcs[0] ?? source.ssrcs[0];
}

/** Own sources as children of a `description`. */
export function writeSources(sources: readonly Source[]): readonly Xml[] {
  const lines = sources.flatMap((source) =>
    source.ssrcs.map((ssrc) =>
      el(
        "source",
        { xmlns: NS.ssma, ssrc, name: source.name, videoType: source.kind === "video" ? source.videoType : undefined },
        el("parameter", { name: "msid", value: source.msid }),
      ),
    ),
  );
  const groups = sources.flatMap((source) =>
    source.groups.map((group) =>
      el("ssrc-group", { xmlns: NS.ssma, semantics: group.semantics }, ...group.ssrcs.map((ssrc) => el("source", { ssrc }))),
    ),
  );
  return [...lines, ...groups];
}
