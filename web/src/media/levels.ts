/** Who is heard now: audio levels of the received streams and of one's own microphone, looked at a few times a second. */

import { signal, type ReadonlySignal } from "@preact/signals";

const EVERY_MS = 150;
/** Linear level, 0 to 1, above which somebody speaks; about −40 dBFS. */
const SPEAKING = 0.01;
/** A frame stays this long after the last sound, so that it does not flicker between words. */
const HOLD_MS = 700;
/** `getSynchronizationSources` tells of the last ten seconds. */
const FRESH_MS = 500;

export class Levels<Key> {
  readonly #speaking = signal<ReadonlySet<Key>>(new Set());
  readonly #heardAt = new Map<Key, number>();
  readonly #timer: ReturnType<typeof setInterval>;

  constructor(read: () => Iterable<readonly [Key, number]>) {
    this.#timer = setInterval(() => this.#look(read()), EVERY_MS);
  }

  get speaking(): ReadonlySignal<ReadonlySet<Key>> {
    return this.#speaking;
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #look(levels: Iterable<readonly [Key, number]>): void {
    const now = performance.now();
    for (const [key, level] of levels) if (level > SPEAKING) this.#heardAt.set(key, now);
    for (const [key, at] of this.#heardAt) if (now - at > HOLD_MS) this.#heardAt.delete(key);
    const before = this.#speaking.peek();
    const changed = before.size !== this.#heardAt.size || [...this.#heardAt.keys()].some((key) => !before.has(key));
    // Nothing is laid out anew for a level, only for somebody who starts or stops.
    if (changed) this.#speaking.value = new Set(this.#heardAt.keys());
  }
}

/** The level of a received stream, 0 to 1. */
export function receivedLevel(receiver: RTCRtpReceiver): number {
  const [source] = receiver.getSynchronizationSources();
  if (source?.audioLevel === undefined) return 0;
  // Browsers differ in whether the clock starts with the page or in 1970.
  const now = source.timestamp > performance.timeOrigin / 2 ? performance.timeOrigin + performance.now() : performance.now();
  return now - source.timestamp > FRESH_MS ? 0 : source.audioLevel;
}

/** Measures a local microphone. */
export class Meter {
  #context: AudioContext | null = null;
  #analyser: AnalyserNode | null = null;
  #source: MediaStreamAudioSourceNode | null = null;
  #track: MediaStreamTrack | null = null;
  #samples = new Float32Array(512);

  measure(track: MediaStreamTrack | undefined): void {
    if (track === (this.#track ?? undefined)) return;
    this.#source?.disconnect();
    this.#source = null;
    this.#track = track ?? null;
    if (track === undefined) return;
    this.#context ??= new AudioContext();
    this.#analyser ??= new AnalyserNode(this.#context, { fftSize: this.#samples.length });
    this.#source = this.#context.createMediaStreamSource(new MediaStream([track]));
    this.#source.connect(this.#analyser);
  }

  /** Root mean square of the last few milliseconds, 0 to 1. */
  level(): number {
    if (this.#analyser === null || this.#track?.enabled !== true) return 0;
    if (this.#context?.state === "suspended") void this.#context.resume();
    this.#analyser.getFloatTimeDomainData(this.#samples);
    let sum = 0;
    for (const sample of this.#samples) sum += sample * sample;
    return Math.sqrt(sum / this.#samples.length);
  }
}
