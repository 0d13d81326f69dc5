/** Runs the call: feeds events to the pure step, one after the other, and has its effects performed by the shells. */

import { effect, signal, type ReadonlySignal } from "@preact/signals";
import { nickOf, step } from "./call/step";
import { isInRoom, type Call, type CallEvent, type Effect, type IqTag, type Notice, type Timer } from "./call/state";
import { ownAudio, type EndpointId, type SourceName } from "./model";
import { randomHex } from "./random";
import { Channel } from "./media/channel";
import type { Devices } from "./media/devices";
import { Levels, Meter } from "./media/levels";
import { Mixer } from "./media/mixer";
import { Peer, type LocalTracks } from "./media/peer";
import { StatsReporter } from "./media/stats";
import { Link, type LinkOptions } from "./signalling/link";
import type { Xml } from "./wire/xml";

export interface MeetingOptions {
  readonly call: Call;
  readonly link: LinkOptions;
  readonly devices: Devices;
  readonly codecOrder: readonly string[];
  readonly handleNotice: (notice: Notice) => void;
}

interface Pending {
  readonly tag: IqTag;
  readonly timer: ReturnType<typeof setTimeout> | undefined;
}

export class Meeting {
  readonly #call;
  readonly #tracks = signal<ReadonlyMap<SourceName, MediaStreamTrack>>(new Map());
  readonly #options: MeetingOptions;
  readonly #link: Link;
  readonly #timers = new Map<Timer, ReturnType<typeof setTimeout>>();
  readonly #pending = new Map<string, Pending>();
  readonly #queue: CallEvent[] = [];
  #draining = false;
  #requests = 0;
  #peer: Peer | null = null;
  #channel: Channel | null = null;
  #stats: StatsReporter | null = null;
  readonly #meter = new Meter();
  readonly #mixer = new Mixer();
  /** What is sent, by device. */
  #outgoing: LocalTracks = new Map();
  readonly #levels = new Levels<SourceName>(() => this.#readLevels());

  constructor(options: MeetingOptions) {
    this.#options = options;
    this.#call = signal(options.call);
    this.#link = new Link(options.link, (event) => {
      switch (event.kind) {
        case "up":
          this.dispatch({ kind: "link-up", jid: event.jid, resumed: event.resumed, nick: nickOf(event.jid) ?? randomNick() });
          break;
        case "lost":
          this.dispatch({ kind: "link-lost" });
          break;
        case "failed":
          this.#forgetRequests();
          this.dispatch({ kind: "link-failed" });
          break;
        case "stanza":
          this.#handleStanza(event.stanza);
          break;
      }
    });
    options.devices.tracks.subscribe((tracks) => this.#meter.measure(tracks.get("microphone")));
    effect(() => {
      this.#outgoing = this.#mixed(options.devices.tracks.value, options.devices.sound.value);
      this.#peer?.setTracks(this.#outgoing);
    });
  }

  get call(): ReadonlySignal<Call> {
    return this.#call;
  }
  /** Tracks of others, by source. */
  get tracks(): ReadonlySignal<ReadonlyMap<SourceName, MediaStreamTrack>> {
    return this.#tracks;
  }
  /** Audio sources that are heard now, one's own among them. */
  get speaking(): ReadonlySignal<ReadonlySet<SourceName>> {
    return this.#levels.speaking;
  }
  /** The own microphone's level, 0 to 1. */
  microphoneLevel(): number {
    return this.#meter.level();
  }

  dispatch(event: CallEvent): void {
    this.#queue.push(event);
    if (this.#draining) return;
    this.#draining = true;
    try {
      for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) {
        const { call, effects } = step(this.#call.peek(), next);
        this.#call.value = call;
        for (const effect of effects) this.#perform(effect);
      }
    } finally {
      this.#draining = false;
    }
  }

  /** Breaks the signalling socket as a bad network would. For trying out recovery. */
  dropSocket(): void {
    this.#link.dropSocket();
  }

  #mixed(tracks: LocalTracks, sound: MediaStreamTrack | null): LocalTracks {
    const audio = this.#mixer.mix(tracks.get("microphone"), sound);
    return audio === undefined || audio === tracks.get("microphone") ? tracks : new Map(tracks).set("microphone", audio);
  }

  *#readLevels(): Iterable<readonly [SourceName, number]> {
    const call = this.#call.peek();
    if (isInRoom(call)) yield [ownAudio(call.self), this.#meter.level()];
    if (this.#peer !== null) yield* this.#peer.levels();
  }

  #handleStanza(stanza: Xml): void {
    const { type, id } = stanza.attrs;
    const pending =
      stanza.name === "iq" && (type === "result" || type === "error") && id !== undefined ? this.#pending.get(id) : undefined;
    if (pending !== undefined && id !== undefined) {
      clearTimeout(pending.timer);
      this.#pending.delete(id);
      this.dispatch({ kind: "answer", tag: pending.tag, iq: stanza });
      return;
    }
    this.dispatch({ kind: "stanza", stanza, at: Date.now() });
  }

  #perform(effect: Effect): void {
    switch (effect.kind) {
      case "connect":
        this.#forgetRequests();
        this.#link.connect();
        break;
      case "disconnect":
        this.#forgetRequests();
        this.#link.close(effect.last);
        break;
      case "send":
        this.#link.send(effect.stanza);
        break;
      case "request":
        this.#request(effect.stanza, effect.tag, effect.patienceMs);
        break;
      case "device":
        this.#options.devices.want(effect.device, effect.on);
        break;
      case "release-devices":
        this.#options.devices.release();
        break;
      case "timer":
        this.#setTimer(effect.timer, effect.ms);
        break;
      case "cancel":
        clearTimeout(this.#timers.get(effect.timer));
        break;
      case "notice":
        this.#options.handleNotice(effect.notice);
        break;
      case "open-session":
      case "remote-sources":
      case "restart-ice":
      case "add-candidates":
      case "limit-encodings":
      case "close-session":
      case "tell-bridge":
        this.#performMedia(effect);
        break;
    }
  }

  #performMedia(
    effect: Extract<
      Effect,
      {
        kind:
          | "open-session"
          | "remote-sources"
          | "restart-ice"
          | "add-candidates"
          | "limit-encodings"
          | "close-session"
          | "tell-bridge";
      }
    >,
  ): void {
    switch (effect.kind) {
      case "open-session":
        this.#openSession(effect);
        break;
      case "remote-sources":
        this.#peer?.setSources(effect.sources);
        break;
      case "restart-ice":
        this.#peer?.restart(effect.transport, effect.generation);
        break;
      case "add-candidates":
        this.#peer?.addCandidates(effect.candidates);
        break;
      case "limit-encodings":
        this.#peer?.limit(effect.source, effect.maxHeight);
        break;
      case "tell-bridge":
        this.#channel?.send(effect.text);
        break;
      case "close-session":
        this.#closeSession();
        break;
    }
  }

  #openSession(effect: Extract<Effect, { kind: "open-session" }>): void {
    this.#closeSession();
    const { sid } = effect.ref;
    const { offer, self, iceServers } = effect;
    const peer = new Peer(
      {
        self,
        offer,
        iceServers,
        codecOrder: this.#options.codecOrder,
        events: {
          handleAnswered: (answer, sources) => this.dispatch({ kind: "answered", sid, answer, sources }),
          handleLocalSources: (sources) => this.dispatch({ kind: "local-sources", sid, sources }),
          handleRestarted: (transport, generation) => this.dispatch({ kind: "restarted", sid, transport, generation }),
          handleFailed: (error) => {
            console.error("negotiation failed", error);
            this.dispatch({ kind: "negotiation-failed", sid });
          },
          handleIce: (state) => this.dispatch({ kind: "ice", sid, state }),
          handleTracks: (tracks) => {
            if (this.#peer === peer) this.#tracks.value = tracks;
          },
        },
      },
      this.#outgoing,
    );
    this.#peer = peer;
    if (offer.channelUrl === null) return;
    const channel = new Channel(offer.channelUrl, {
      handleOpen: (open) => this.dispatch({ kind: "channel", open }),
      handleMessage: (message) => this.dispatch({ kind: "bridge", message }),
    });
    this.#channel = channel;
    this.#stats = new StatsReporter(peer.connection, offer.bridge?.region ?? "", (text) => channel.send(text));
  }

  #closeSession(): void {
    this.#stats?.stop();
    this.#channel?.close();
    this.#peer?.close();
    this.#stats = null;
    this.#channel = null;
    this.#peer = null;
    this.#tracks.value = new Map();
  }

  #request(stanza: Xml, tag: IqTag, patienceMs: number | null): void {
    this.#requests += 1;
    const id = `${this.#requests}:sendIQ`;
    const timer = patienceMs === null ? undefined : setTimeout(() => this.#requestExpired(id, patienceMs), patienceMs);
    this.#pending.set(id, { tag, timer });
    this.#link.send({ ...stanza, attrs: { ...stanza.attrs, id } });
  }

  /** Silence while the socket is down is no answer: patience starts again when it is back. */
  #requestExpired(id: string, patienceMs: number): void {
    const pending = this.#pending.get(id);
    if (pending === undefined) return;
    const call = this.#call.peek();
    if (isInRoom(call) && call.link === "lost") {
      this.#pending.set(id, { ...pending, timer: setTimeout(() => this.#requestExpired(id, patienceMs), patienceMs) });
      return;
    }
    this.#pending.delete(id);
    this.dispatch({ kind: "answer", tag: pending.tag, iq: null });
  }

  #forgetRequests(): void {
    for (const { timer } of this.#pending.values()) clearTimeout(timer);
    this.#pending.clear();
  }

  #setTimer(timer: Timer, ms: number): void {
    clearTimeout(this.#timers.get(timer));
    this.#timers.set(
      timer,
      setTimeout(() => this.dispatch({ kind: "timer", timer }), ms),
    );
  }
}

/** For servers whose user names are no UUIDs. */
function randomNick(): EndpointId {
  return randomHex(4) as EndpointId;
}
