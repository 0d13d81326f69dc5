/**
 * The peer connection of one session with the bridge.
 *
 * Everything that changes a description goes through one loop that works towards the latest wish, one negotiation at a time.
 */

import { randomHex, randomUint32 } from "../random";
import { ownAudio, ownCamera, ownShare, type EndpointId, type Source, type SourceName } from "../model";
import type { Device } from "../call/state";
import type { IceServer } from "../wire/chat";
import type { Answer, Offer, Transport } from "../wire/jingle";
import { addEncodings, localTransport, parseAnswer, parseOwnSources, type OwnLine } from "../wire/local-sdp";
import { firstSlots, planSlots, writeRemote, type Slot } from "../wire/remote-sdp";
import { shapeEncodings } from "./encodings";
import { receivedLevel } from "./levels";

export interface PeerEvents {
  readonly handleAnswered: (answer: Answer, sources: readonly Source[]) => void;
  readonly handleLocalSources: (sources: readonly Source[]) => void;
  readonly handleRestarted: (transport: Transport, generation: number) => void;
  readonly handleFailed: (error: unknown) => void;
  readonly handleIce: (state: "connected" | "interrupted" | "failed") => void;
  /** Remote tracks by source name; replaces the last. */
  readonly handleTracks: (tracks: ReadonlyMap<SourceName, MediaStreamTrack>) => void;
}

export interface PeerOptions {
  readonly self: EndpointId;
  readonly offer: Offer;
  readonly iceServers: readonly IceServer[];
  readonly codecOrder: readonly string[];
  readonly events: PeerEvents;
}

export type LocalTracks = ReadonlyMap<Device, MediaStreamTrack>;

interface Wish {
  readonly sources: readonly Source[];
  readonly tracks: LocalTracks;
  /** New credentials of the bridge, with their number. */
  readonly restart: { readonly transport: Transport; readonly generation: number } | null;
}

export class Peer {
  readonly #options: PeerOptions;
  readonly #pc: RTCPeerConnection;
  /** Tells this session's streams from those of an earlier one under the same name. */
  readonly #label = randomHex(8);
  #wish: Wish;
  #slots: readonly Slot[];
  #transport: Transport;
  #generation = 0;
  #version = 0;
  #described = false;
  #running = false;
  #closed = false;
  #sources: readonly Source[] = [];
  #shaping: Promise<void> = Promise.resolve();
  readonly #limits = new Map<SourceName, number>();

  constructor(options: PeerOptions, tracks: LocalTracks) {
    this.#options = options;
    this.#wish = { sources: [], tracks, restart: null };
    this.#slots = firstSlots(options.offer);
    this.#transport = options.offer.transport;
    this.#pc = new RTCPeerConnection({
      bundlePolicy: "max-bundle",
      iceServers: options.iceServers.map((server) => ({ ...server })),
    });
    this.#pc.addEventListener("iceconnectionstatechange", () => this.#iceChanged());
    this.#pc.addEventListener("connectionstatechange", () => {
      if (this.#pc.connectionState === "failed" && !this.#closed) options.events.handleIce("failed");
    });
    this.#work();
  }

  /** How loud each received audio source is now, 0 to 1. */
  *levels(): Iterable<readonly [SourceName, number]> {
    for (const transceiver of this.#pc.getTransceivers()) {
      const slot = this.#slots.find(({ mid }) => mid === transceiver.mid);
      if (slot?.use === "remote" && slot.kind === "audio") yield [slot.source.name, receivedLevel(transceiver.receiver)];
    }
  }

  get connection(): RTCPeerConnection {
    return this.#pc;
  }

  setSources(sources: readonly Source[]): void {
    this.#want({ ...this.#wish, sources });
  }

  setTracks(tracks: LocalTracks): void {
    this.#want({ ...this.#wish, tracks });
  }

  restart(transport: Transport, generation: number): void {
    this.#want({ ...this.#wish, restart: { transport, generation } });
  }

  addCandidates(candidates: readonly string[]): void {
    for (const candidate of candidates) {
      this.#pc.addIceCandidate({ candidate, sdpMLineIndex: 0 }).catch((error: unknown) => console.warn("candidate refused", error));
    }
  }

  /** The bridge needs no more than `maxHeight` lines of this source; 0 is nothing, negative no limit. */
  limit(source: SourceName, maxHeight: number): void {
    this.#limits.set(source, maxHeight);
    void (source === ownShare(this.#options.self) ? this.#shapeShare() : this.#shapeCamera());
  }

  close(): void {
    this.#closed = true;
    this.#pc.close();
  }

  #want(wish: Wish): void {
    this.#wish = wish;
    this.#work();
  }

  #work(): void {
    if (this.#running || this.#closed) return;
    this.#running = true;
    // Wishes that come in the same turn are one negotiation.
    queueMicrotask(() => void this.#run());
  }

  async #run(): Promise<void> {
    try {
      let done: Wish | null = null;
      while (done !== this.#wish && !this.#closed) {
        done = this.#wish;
        await this.#apply(done);
      }
    } catch (error) {
      if (!this.#closed) this.#options.events.handleFailed(error);
    } finally {
      this.#running = false;
    }
  }

  async #apply(wish: Wish): Promise<void> {
    const planned = planSlots(this.#slots, { sources: wish.sources, share: wish.tracks.has("screen") });
    const restart = wish.restart !== null && wish.restart.generation > this.#generation ? wish.restart : null;
    const needed = !this.#described || restart !== null || !sameSlots(planned, this.#slots);
    this.#slots = planned;
    if (!needed) {
      await this.#attachTracks(wish.tracks);
      return;
    }
    if (restart !== null) {
      this.#generation = restart.generation;
      // Candidates follow once both sides have the new credentials: in one step the working pair would be thrown away.
      this.#transport = { ...restart.transport, candidates: [] };
    }
    await this.#negotiate(wish.tracks);
    if (restart !== null) {
      const transport = localTransport(this.#pc.localDescription?.sdp ?? "");
      if (transport !== null) this.#options.events.handleRestarted(transport, restart.generation);
      this.addCandidates(restart.transport.candidates);
    }
  }

  async #negotiate(tracks: LocalTracks): Promise<void> {
    const { offer, codecOrder, events } = this.#options;
    this.#version += 1;
    const sdp = writeRemote(offer, this.#slots, this.#version, codecOrder, this.#transport);
    await this.#pc.setRemoteDescription({ type: "offer", sdp });
    await this.#attachTracks(tracks);
    const answer = await this.#pc.createAnswer();
    await this.#setAnswer(answer.sdp ?? "");
    if (this.#closed) return;
    await this.#shapeCamera();
    await this.#shapeShare();
    const first = !this.#described;
    this.#described = true;
    const local = this.#pc.localDescription?.sdp ?? "";
    const sources = parseOwnSources(local, this.#ownLines(), this.#options.self, this.#label);
    if (first) {
      const own = this.#slots.filter((slot) => slot.use === "own").map((slot) => slot.mid);
      const parsed = parseAnswer(local, own);
      if (parsed === null) throw new Error("the browser refused every m-line");
      this.#sources = sources;
      events.handleAnswered(parsed, sources);
    } else if (JSON.stringify(sources) !== JSON.stringify(this.#sources)) {
      this.#sources = sources;
      events.handleLocalSources(sources);
    }
    events.handleTracks(this.#remoteTracks());
  }

  /** With three encodings of the camera where the browser can, with one where it cannot. */
  async #setAnswer(sdp: string): Promise<void> {
    const camera = this.#slots.find((slot) => slot.use === "own" && slot.kind === "video");
    const munged = camera === undefined ? sdp : addEncodings(sdp, camera.mid, randomSsrc);
    if (munged !== sdp && sendsSimulcast()) {
      try {
        await this.#pc.setLocalDescription({ type: "answer", sdp: munged });
        return;
      } catch (error) {
        console.warn("one encoding only", error);
      }
    }
    await this.#pc.setLocalDescription({ type: "answer", sdp });
  }

  async #attachTracks(tracks: LocalTracks): Promise<void> {
    for (const transceiver of this.#pc.getTransceivers()) {
      const slot = this.#slots.find(({ mid }) => mid === transceiver.mid);
      if (slot === undefined || (slot.use !== "own" && slot.use !== "share")) continue;
      const direction = slot.use === "own" ? "sendrecv" : "sendonly";
      if (transceiver.direction !== direction) transceiver.direction = direction;
      const device: Device = slot.use === "share" ? "screen" : slot.kind === "audio" ? "microphone" : "camera";
      const track = tracks.get(device) ?? null;
      if (transceiver.sender.track !== track) await transceiver.sender.replaceTrack(track);
      if (device === "camera" && track !== null) await this.#shapeCamera();
    }
  }

  async #shapeCamera(): Promise<void> {
    const sender = this.#sender((slot) => slot.use === "own" && slot.kind === "video");
    if (sender === undefined || !this.#described) return;
    await this.#shape(sender, "camera", this.#limits.get(ownCamera(this.#options.self)));
  }

  async #shapeShare(): Promise<void> {
    const sender = this.#sender((slot) => slot.use === "share");
    if (sender !== undefined) await this.#shape(sender, "screen", this.#limits.get(ownShare(this.#options.self)));
  }

  /** One at a time: parameters read before another change would be refused. */
  #shape(sender: RTCRtpSender, shows: "camera" | "screen", maxHeight: number | undefined): Promise<void> {
    this.#shaping = this.#shaping.then(() => shapeEncodings(sender, shows, maxHeight ?? -1));
    return this.#shaping;
  }

  #sender(which: (slot: Slot) => boolean): RTCRtpSender | undefined {
    const mid = this.#slots.find(which)?.mid;
    return mid === undefined ? undefined : this.#pc.getTransceivers().find((transceiver) => transceiver.mid === mid)?.sender;
  }

  #ownLines(): readonly OwnLine[] {
    const { self } = this.#options;
    return this.#slots.flatMap((slot): OwnLine[] => {
      const { mid, kind } = slot;
      if (slot.use === "share") return [{ mid, kind, name: ownShare(self), videoType: "desktop" }];
      if (slot.use !== "own") return [];
      return [{ mid, kind, name: kind === "audio" ? ownAudio(self) : ownCamera(self), videoType: "camera" }];
    });
  }

  #remoteTracks(): ReadonlyMap<SourceName, MediaStreamTrack> {
    const tracks = new Map<SourceName, MediaStreamTrack>();
    for (const transceiver of this.#pc.getTransceivers()) {
      const slot = this.#slots.find(({ mid }) => mid === transceiver.mid);
      if (slot?.use === "remote") tracks.set(slot.source.name, transceiver.receiver.track);
    }
    return tracks;
  }

  #iceChanged(): void {
    if (this.#closed) return;
    const { events } = this.#options;
    switch (this.#pc.iceConnectionState) {
      case "connected":
      case "completed":
        events.handleIce("connected");
        break;
      case "disconnected":
        events.handleIce("interrupted");
        break;
      case "failed":
        events.handleIce("failed");
        break;
      case "new":
      case "checking":
      case "closed":
        break;
    }
  }
}

function sameSlots(a: readonly Slot[], b: readonly Slot[]): boolean {
  return a.length === b.length && a.every((slot, index) => JSON.stringify(slot) === JSON.stringify(b[index]));
}

/** Browsers on libwebrtc take a SIM group from the description; Firefox does not. */
function sendsSimulcast(): boolean {
  return !/firefox/i.test(navigator.userAgent);
}

/** A random SSRC of ten digits: stock clients look groups up by containment of digits. */
function randomSsrc(): number {
  return 1_000_000_000 + (randomUint32() % 3_000_000_000);
}
