/** Messages of the bridge channel: JSON objects told apart by `colibriClass`. */

import { endpointId, sourceName, type EndpointId, type SourceName } from "../model";

export type FromBridge =
  | { readonly kind: "dominant"; readonly endpoint: EndpointId | null; readonly silence: boolean }
  | { readonly kind: "forwarded"; readonly sources: ReadonlySet<SourceName> }
  | { readonly kind: "sender-limit"; readonly source: SourceName; readonly maxHeight: number }
  | { readonly kind: "connectivity"; readonly endpoint: EndpointId; readonly active: boolean };

/** `null` for a message that this page has no use for: server hello, endpoint messages, statistics. */
export function parseBridgeMessage(text: string): FromBridge | null {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    return null;
  }
  if (typeof parsed !== "object" || parsed === null) return null;
  const message = parsed as Record<string, unknown>;
  switch (message["colibriClass"]) {
    case "DominantSpeakerEndpointChangeEvent": {
      const id = message["dominantSpeakerEndpoint"];
      return { kind: "dominant", endpoint: typeof id === "string" ? endpointId(id) : null, silence: message["silence"] === true };
    }
    case "ForwardedSources": {
      const list = message["forwardedSources"];
      if (!Array.isArray(list)) return null;
      return { kind: "forwarded", sources: new Set(list.flatMap((name: unknown) => sourceName(String(name)) ?? [])) };
    }
    case "SenderSourceConstraints": {
      const source = sourceName(String(message["sourceName"]));
      const maxHeight = message["maxHeight"];
      return source === null || typeof maxHeight !== "number" ? null : { kind: "sender-limit", source, maxHeight };
    }
    case "EndpointConnectivityStatusChangeEvent": {
      const endpoint = endpointId(String(message["endpoint"]));
      return endpoint === null ? null : { kind: "connectivity", endpoint, active: message["active"] === "true" };
    }
    default:
      return null;
  }
}

export function videoTypeMessage(source: SourceName, type: "camera" | "desktop" | "none"): string {
  return JSON.stringify({ colibriClass: "SourceVideoTypeMessage", sourceName: source, videoType: type });
}

/** What this client wants to receive: the whole wish each time. */
export interface Constraints {
  readonly lastN: number;
  readonly onStage: readonly SourceName[];
  /** Wanted more than others, after those on the stage. */
  readonly selected: readonly SourceName[];
  /** Line counts; a source that is not named gets `defaultMaxHeight`. */
  readonly heights: ReadonlyMap<SourceName, number>;
  readonly defaultMaxHeight: number;
}

export function constraintsMessage(constraints: Constraints): string {
  const heights = [...constraints.heights].sort(([a], [b]) => (a < b ? -1 : 1));
  return JSON.stringify({
    colibriClass: "ReceiverVideoConstraints",
    lastN: constraints.lastN,
    onStageSources: constraints.onStage,
    selectedSources: constraints.selected,
    defaultConstraints: { maxHeight: constraints.defaultMaxHeight },
    constraints: Object.fromEntries(heights.map(([name, maxHeight]) => [name, { maxHeight }])),
  });
}

export interface EndpointStats {
  readonly downloadKbps: number;
  readonly uploadKbps: number;
  /** Percent. */
  readonly lossDownload: number;
  readonly lossUpload: number;
  readonly rttMs: number;
  readonly maxHeight: number;
  readonly region: string;
}

export function statsMessage(stats: EndpointStats): string {
  const loss = Math.max(stats.lossDownload, stats.lossUpload);
  return JSON.stringify({
    colibriClass: "EndpointStats",
    bitrate: { download: stats.downloadKbps, upload: stats.uploadKbps },
    connectionQuality: qualityOf(loss),
    jvbRTT: stats.rttMs,
    maxEnabledResolution: stats.maxHeight,
    packetLoss: { download: stats.lossDownload, total: loss, upload: stats.lossUpload },
    serverRegion: stats.region,
  });
}

/** The scale that stock clients show as bars. */
function qualityOf(lossPercent: number): number {
  const steps = [
    [2, 100],
    [4, 70],
    [6, 50],
    [8, 30],
    [12, 10],
  ] as const;
  return steps.find(([limit]) => lossPercent <= limit)?.[1] ?? 0;
}
