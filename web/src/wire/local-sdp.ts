/** The local description: this browser's answer, read for signalling, and extended so that the camera is sent in three encodings. */

import type { EndpointId, MediaKind, Source, SourceName, SsrcGroup, VideoType } from "../model";
import type { Answer, Feedback, MediaProfile, Payload, Transport } from "./jingle";

/** One m-line: its attribute lines without `a=`. */
interface Section {
  readonly kind: string;
  readonly mid: string;
  readonly rejected: boolean;
  readonly payloads: readonly number[];
  readonly attributes: readonly string[];
}

function parseSections(sdp: string): { readonly session: readonly string[]; readonly sections: readonly Section[] } {
  const [head = "", ...parts] = sdp.split(/\r?\n(?=m=)/);
  const attributes = (part: string): readonly string[] =>
    part.split(/\r?\n/).flatMap((line) => (line.startsWith("a=") ? [line.slice(2)] : []));
  const sections = parts.map((part) => {
    const [kind = "", port = "", , ...payloads] = (/^m=(.*)$/m.exec(part)?.[1] ?? "").trim().split(" ");
    const lines = attributes(part);
    return { kind, mid: value(lines, "mid") ?? "", rejected: port === "0", payloads: payloads.map(Number), attributes: lines };
  });
  return { session: attributes(head), sections };
}

function value(attributes: readonly string[], name: string): string | undefined {
  return attributes.find((line) => line.startsWith(`${name}:`))?.slice(name.length + 1);
}

function values(attributes: readonly string[], name: string): readonly string[] {
  return attributes.filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1));
}

/** What a `session-accept` says: the m-lines that this client sends on. */
export function parseAnswer(sdp: string, mids: readonly string[]): Answer | null {
  const { session, sections } = parseSections(sdp);
  const own = sections.filter((section) => mids.includes(section.mid) && !section.rejected);
  const first = own[0];
  if (first === undefined) return null;
  const transport = parseTransport([...first.attributes, ...session]);
  return transport === null ? null : { media: own.flatMap((section) => parseProfile(section) ?? []), transport };
}

/** The credentials of a local description. */
export function localTransport(sdp: string): Transport | null {
  const { session, sections } = parseSections(sdp);
  return parseTransport([...(sections.find((section) => !section.rejected)?.attributes ?? []), ...session]);
}

function parseTransport(attributes: readonly string[]): Transport | null {
  const ufrag = value(attributes, "ice-ufrag");
  const pwd = value(attributes, "ice-pwd");
  if (ufrag === undefined || pwd === undefined) return null;
  const [hash, digest] = (value(attributes, "fingerprint") ?? "").split(" ");
  return {
    ufrag,
    pwd,
    fingerprint: hash && digest ? { hash, value: digest, setup: value(attributes, "setup") ?? "active" } : null,
    candidates: [],
  };
}

function parseProfile(section: Section): MediaProfile | null {
  if (section.kind !== "audio" && section.kind !== "video") return null;
  const { attributes } = section;
  const payloads = section.payloads.flatMap((id): Payload[] => {
    const map = values(attributes, "rtpmap").find((line) => line.startsWith(`${id} `));
    const [name, clockrate, channels] = (map?.slice(String(id).length + 1) ?? "").split("/");
    if (!name || !clockrate) return [];
    const own = (attribute: string): readonly string[] =>
      values(attributes, attribute)
        .filter((line) => line.startsWith(`${id} `))
        .map((line) => line.slice(String(id).length + 1));
    const feedback = own("rtcp-fb").map((line): Feedback => {
      const [type = "", subtype] = line.split(" ");
      return subtype === undefined ? { type } : { type, subtype };
    });
    return [
      { id, name, clockrate: Number(clockrate), channels: Number(channels ?? "1"), parameters: own("fmtp").join(";"), feedback },
    ];
  });
  const extensions = values(attributes, "extmap").flatMap((line) => {
    const [id = "", uri = ""] = line.split(" ");
    return uri === "" ? [] : [{ id: Number.parseInt(id, 10), uri }];
  });
  return { kind: section.kind, payloads, extensions, extmapAllowMixed: attributes.includes("extmap-allow-mixed") };
}

/** Which own source an m-line sends. */
export interface OwnLine {
  readonly mid: string;
  readonly name: SourceName;
  readonly kind: MediaKind;
  readonly videoType: VideoType;
}

/**
 * The own sources of a local description, named by the convention `<endpoint>-<kind>-<index>-1 <label>-1` that others know a
 * stream by; one msid over all SSRCs of a source.
 */
export function parseOwnSources(sdp: string, lines: readonly OwnLine[], endpoint: EndpointId, label: string): readonly Source[] {
  const { sections } = parseSections(sdp);
  return lines.flatMap((line) => {
    const section = sections.find(({ mid, rejected }) => mid === line.mid && !rejected);
    if (section === undefined) return [];
    const ssrcs = [...new Set(values(section.attributes, "ssrc").map((entry) => Number(entry.split(" ")[0])))];
    if (ssrcs.length === 0) return [];
    const index = line.name.slice(-1);
    const msid = `${endpoint}-${line.kind}-${index}-1 ${label}-${line.name.slice(-2)}-1`;
    const { name, kind, videoType } = line;
    return [{ name, owner: endpoint, kind, videoType, msid, ssrcs, groups: parseGroups(section) }];
  });
}

function parseGroups(section: Section): readonly SsrcGroup[] {
  return values(section.attributes, "ssrc-group").flatMap((entry) => {
    const [semantics = "", ...ssrcs] = entry.split(" ");
    return semantics === "FID" || semantics === "SIM" ? [{ semantics, ssrcs: ssrcs.map(Number) }] : [];
  });
}

export const CAMERA_ENCODINGS = 3;

/**
 * Adds the SSRCs of two more encodings to the m-line of the camera.
 *
 * Browsers on libwebrtc send simulcast as SSRCs in a SIM group, which is the only form that others in the room are told, only if the
 * local description says so; there is no call for it. Other browsers and lines that have the group already are left alone.
 */
export function addEncodings(sdp: string, mid: string, newSsrc: () => number): string {
  return sdp
    .split(/(?<=\r?\n)(?=m=)/)
    .map((part) => {
      const lines = part.split(/\r?\n/);
      if (!lines.includes(`a=mid:${mid}`) || lines.some((line) => line.startsWith("a=ssrc-group:SIM"))) return part;
      const fid = /^a=ssrc-group:FID (\d+) (\d+)\r?$/m.exec(part);
      const primary = fid?.[1] ?? /^a=ssrc:(\d+) /m.exec(part)?.[1];
      if (primary === undefined || !lines.some((line) => line === "a=sendrecv" || line === "a=sendonly")) return part;
      return `${part.trimEnd()}\r\n${encodingLines(lines, primary, fid?.[2], newSsrc).join("\r\n")}\r\n`;
    })
    .join("");
}

function encodingLines(
  lines: readonly string[],
  primary: string,
  repair: string | undefined,
  newSsrc: () => number,
): readonly string[] {
  const tail = lines.flatMap((line) => (line.startsWith(`a=ssrc:${primary} `) ? [line.slice(`a=ssrc:${primary} `.length)] : []));
  const added: string[] = [];
  const encodings = [primary];
  const describe = (ssrc: string): void => {
    added.push(...tail.map((attribute) => `a=ssrc:${ssrc} ${attribute}`));
  };
  for (let i = 1; i < CAMERA_ENCODINGS; i++) {
    const encoding = String(newSsrc());
    encodings.push(encoding);
    describe(encoding);
    if (repair === undefined) continue;
    const encodingRepair = String(newSsrc());
    describe(encodingRepair);
    added.push(`a=ssrc-group:FID ${encoding} ${encodingRepair}`);
  }
  return [...added, `a=ssrc-group:SIM ${encodings.join(" ")}`];
}
