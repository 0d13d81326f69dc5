/** Tells the bridge every few seconds how well media arrive; stock clients show it as bars. */

import { statsMessage } from "../wire/channel";

const EVERY_MS = 10_000;

interface Totals {
  readonly at: number;
  readonly received: number;
  readonly sent: number;
  readonly packets: number;
  readonly lost: number;
}

export class StatsReporter {
  readonly #timer: ReturnType<typeof setInterval>;
  #last: Totals | null = null;

  constructor(connection: RTCPeerConnection, region: string, send: (text: string) => void) {
    this.#timer = setInterval(() => {
      this.#report(connection, region, send).catch((error: unknown) => console.warn("no statistics", error));
    }, EVERY_MS);
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  async #report(connection: RTCPeerConnection, region: string, send: (text: string) => void): Promise<void> {
    if (connection.connectionState !== "connected") return;
    const now = { at: performance.now(), received: 0, sent: 0, packets: 0, lost: 0 };
    let rttMs = 0;
    let maxHeight = 0;
    let lossUpload = 0;
    for (const entry of (await connection.getStats()).values() as Iterable<Record<string, unknown>>) {
      const value = (name: string): number => (typeof entry[name] === "number" ? entry[name] : 0);
      if (entry["type"] === "transport") {
        now.received += value("bytesReceived");
        now.sent += value("bytesSent");
      } else if (entry["type"] === "inbound-rtp") {
        now.packets += value("packetsReceived");
        now.lost += Math.max(0, value("packetsLost"));
      } else if (entry["type"] === "remote-inbound-rtp") {
        lossUpload = Math.max(lossUpload, value("fractionLost") * 100);
      } else if (entry["type"] === "outbound-rtp") {
        maxHeight = Math.max(maxHeight, value("frameHeight"));
      } else if (entry["type"] === "candidate-pair" && entry["nominated"] === true) {
        rttMs = value("currentRoundTripTime") * 1000;
      }
    }
    const last = this.#last;
    this.#last = now;
    if (last === null) return;
    const seconds = (now.at - last.at) / 1000;
    const kbps = (bytes: number): number => Math.round((bytes * 8) / 1000 / seconds);
    const lost = now.lost - last.lost;
    const expected = now.packets - last.packets + lost;
    send(
      statsMessage({
        downloadKbps: kbps(now.received - last.received),
        uploadKbps: kbps(now.sent - last.sent),
        lossDownload: expected > 0 ? Math.round((lost / expected) * 100) : 0,
        lossUpload: Math.round(lossUpload),
        rttMs: Math.round(rttMs),
        maxHeight,
        region,
      }),
    );
  }
}
