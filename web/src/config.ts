/** The server's `config.js`: raw global in, checked values out. */

export interface Config {
  readonly domain: string;
  readonly muc: string;
  readonly focus: string;
  readonly websocket: string;
  readonly hiddenDomain: string;
  readonly cameraHeight: number;
  readonly screenFrameRate: number;
  readonly startWithAudioMuted: boolean;
  readonly startWithVideoMuted: boolean;
  /** Codecs in the order in which this page would like to send them. */
  readonly codecOrder: readonly string[];
}

/** `null` when what makes a meeting possible is missing. */
export function readConfig(raw: unknown, base: URL): Config | null {
  const config = record(raw);
  const hosts = record(config["hosts"]);
  const domain = string(hosts["domain"]);
  const muc = string(hosts["muc"]);
  const websocket = string(config["websocket"]);
  if (domain === "" || muc === "" || websocket === "") return null;
  const quality = record(config["videoQuality"]);
  const order = quality["codecPreferenceOrder"];
  const video = record(record(config["constraints"])["video"]);
  const height = record(video["height"])["ideal"];
  const frames = record(config["desktopSharingFrameRate"])["max"];
  return {
    domain,
    muc,
    focus: string(hosts["focus"]) || `focus.${domain}`,
    websocket: socketUrl(websocket, base),
    hiddenDomain: string(config["hiddenDomain"]),
    cameraHeight: number(height) ?? number(config["resolution"]) ?? 720,
    screenFrameRate: number(frames) ?? 15,
    startWithAudioMuted: config["startWithAudioMuted"] === true,
    startWithVideoMuted: config["startWithVideoMuted"] === true,
    codecOrder: Array.isArray(order) ? order.filter((codec): codec is string => typeof codec === "string") : DEFAULT_CODECS,
  };
}

/** VP8 first: the only codec that every browser sends in three encodings, so that each receiver gets the size it needs. */
const DEFAULT_CODECS = ["VP8", "VP9", "H264", "AV1"] as const;

function socketUrl(address: string, base: URL): string {
  const url = new URL(address, base);
  if (url.protocol === "http:") url.protocol = "ws:";
  if (url.protocol === "https:") url.protocol = "wss:";
  return url.href;
}

function record(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}
function string(value: unknown): string {
  return typeof value === "string" ? value : "";
}
function number(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) && value > 0 ? value : null;
}
