/**
 * Microphone, camera and screen: switched towards the latest wish, one step at a time each.
 *
 * Owns the local tracks. A microphone that is off stays open but silent, so that it is back at once; a camera that is off is released,
 * so that its light goes out.
 */

import { signal, type ReadonlySignal } from "@preact/signals";
import type { Device, DeviceState } from "../call/state";
import { troubleOf } from "./trouble";

export interface Choice {
  readonly id: string;
  readonly label: string;
}
export type Choices = Readonly<Record<"microphone" | "camera", readonly Choice[]>>;

export interface DevicesOptions {
  /** Lines of the camera picture, from the configuration. */
  readonly cameraHeight: number;
  readonly screenFrameRate: number;
  readonly emit: (device: Device, state: DeviceState) => void;
}

/** What was asked for; `sound` comes with a screen. */
interface Acquired {
  readonly track: MediaStreamTrack;
  readonly sound: MediaStreamTrack | null;
}

const KINDS = { microphone: "audioinput", camera: "videoinput" } as const;

export class Devices {
  readonly #options: DevicesOptions;
  readonly #tracks = signal<ReadonlyMap<Device, MediaStreamTrack>>(new Map());
  readonly #sound = signal<MediaStreamTrack | null>(null);
  readonly #choices = signal<Choices>({ microphone: [], camera: [] });
  readonly #preferred = signal<Readonly<Partial<Record<Device, string>>>>({});
  readonly #wanted: Record<Device, boolean> = { microphone: false, camera: false, screen: false };
  readonly #busy: Record<Device, boolean> = { microphone: false, camera: false, screen: false };

  constructor(options: DevicesOptions, preferred: Readonly<Partial<Record<Device, string>>>) {
    this.#options = options;
    this.#preferred.value = preferred;
    mediaDevices()?.addEventListener("devicechange", () => void this.refreshChoices());
  }

  get tracks(): ReadonlySignal<ReadonlyMap<Device, MediaStreamTrack>> {
    return this.#tracks;
  }
  /** What the shared screen plays, if the person shares that, too. */
  get sound(): ReadonlySignal<MediaStreamTrack | null> {
    return this.#sound;
  }
  get choices(): ReadonlySignal<Choices> {
    return this.#choices;
  }
  get preferred(): ReadonlySignal<Readonly<Partial<Record<Device, string>>>> {
    return this.#preferred;
  }

  /** Wishes a device on or off. Wishes of one turn are settled together. */
  want(device: Device, on: boolean): void {
    this.#wanted[device] = on;
    queueMicrotask(() => void this.#settleAll(device));
  }

  /** Microphone and camera are one question to the person where both are wished at once. */
  async #settleAll(device: Device): Promise<void> {
    const both = ["microphone", "camera"] as const;
    if (both.every((one) => this.#wanted[one] && !this.#busy[one] && !this.#tracks.value.has(one))) {
      await this.#openBoth();
      for (const one of both) await this.#settle(one);
    } else {
      await this.#settle(device);
    }
  }

  /** Failing that, each is asked for alone, so that the one that works is not lost and the other's reason is known. */
  async #openBoth(): Promise<void> {
    const both = ["microphone", "camera"] as const;
    for (const device of both) this.#busy[device] = true;
    try {
      const stream = await mediaDevices()?.getUserMedia({ ...this.#constraints("microphone"), ...this.#constraints("camera") });
      for (const track of stream?.getTracks() ?? []) this.#put(track.kind === "audio" ? "microphone" : "camera", { track, sound: null });
    } catch (error) {
      for (const device of troubleOf(error, false) === "refused" ? both : []) {
        // A question that the person closed is not put again at once.
        if ((await permission(device)) !== "prompt") continue;
        this.#wanted[device] = false;
        this.#options.emit(device, { kind: "trouble", trouble: "refused" });
      }
    } finally {
      for (const device of both) this.#busy[device] = false;
    }
  }

  #constraints(device: "microphone" | "camera"): MediaStreamConstraints {
    const preferred = this.#preferred.value[device];
    const deviceId = preferred === undefined ? {} : { deviceId: { ideal: preferred } };
    if (device === "microphone")
      return { audio: { ...deviceId, echoCancellation: true, noiseSuppression: true, autoGainControl: true } };
    const height = this.#options.cameraHeight;
    const size = { height: { ideal: height }, width: { ideal: Math.round((height * 16) / 9) }, frameRate: { ideal: 30 } };
    return { video: { ...deviceId, ...size } };
  }

  /** Takes another microphone or camera, at once if it is on. */
  choose(device: "microphone" | "camera", id: string): void {
    this.#preferred.value = { ...this.#preferred.value, [device]: id };
    if (!this.#wanted[device]) {
      this.#drop(device);
      return;
    }
    void (async () => {
      const fresh = await this.#acquire(device);
      if (fresh !== null) this.#put(device, fresh);
    })();
  }

  /** Lets go of everything. */
  release(): void {
    for (const device of ["microphone", "camera", "screen"] as const) {
      this.#wanted[device] = false;
      this.#drop(device);
    }
  }

  async refreshChoices(): Promise<void> {
    const found =
      (await mediaDevices()
        ?.enumerateDevices()
        .catch(() => [])) ?? [];
    const of = (kind: MediaDeviceKind): readonly Choice[] =>
      found.filter((info) => info.kind === kind && info.deviceId !== "").map((info) => ({ id: info.deviceId, label: info.label }));
    this.#choices.value = { microphone: of(KINDS.microphone), camera: of(KINDS.camera) };
  }

  async #settle(device: Device): Promise<void> {
    if (this.#busy[device]) return;
    if (this.#wanted[device] && this.#tracks.value.get(device)?.enabled === true) {
      this.#options.emit(device, this.#on(device));
      void this.refreshChoices();
      return;
    }
    this.#busy[device] = true;
    try {
      const track = this.#tracks.value.get(device);
      if (!this.#wanted[device]) {
        if (device === "microphone" && track !== undefined) track.enabled = false;
        else this.#drop(device);
        return;
      }
      if (track !== undefined && track.readyState === "live") {
        track.enabled = true;
        this.#options.emit(device, this.#on(device));
        return;
      }
      const fresh = await this.#acquire(device);
      if (fresh === null) {
        this.#wanted[device] = false;
        return;
      }
      this.#put(device, fresh);
      void this.refreshChoices();
    } finally {
      this.#busy[device] = false;
    }
    // The wish may have changed while the browser asked.
    const on = this.#tracks.value.get(device)?.enabled === true;
    if (this.#wanted[device] !== on) await this.#settle(device);
    else if (on) this.#options.emit(device, this.#on(device));
  }

  #on(device: Device): DeviceState {
    return device === "screen" && this.#sound.value !== null ? { kind: "on", sound: true } : { kind: "on" };
  }

  async #acquire(device: Device): Promise<Acquired | null> {
    try {
      const stream = await this.#ask(device);
      const track = stream.getTracks().find((candidate) => candidate.kind === (device === "microphone" ? "audio" : "video"));
      if (track === undefined) throw new DOMException("no track", "NotFoundError");
      return { track, sound: device === "screen" ? (stream.getAudioTracks()[0] ?? null) : null };
    } catch (error) {
      const trouble = troubleOf(error, device === "screen");
      this.#options.emit(device, trouble === null ? { kind: "off" } : { kind: "trouble", trouble });
      return null;
    }
  }

  async #ask(device: Device): Promise<MediaStream> {
    const media = mediaDevices();
    if (media === undefined) throw new TypeError("no media devices");
    if (device !== "screen") return media.getUserMedia(this.#constraints(device));
    // Whether there is sound is the person's choice in the browser's own dialogue; where it cannot be captured there is none. It is
    // music as likely as speech, so nothing is filtered out of it.
    const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    return media.getDisplayMedia({ video: { frameRate: { max: this.#options.screenFrameRate } }, audio });
  }

  #put(device: Device, { track, sound }: Acquired): void {
    this.#drop(device);
    if (sound !== null) this.#putSound(sound);
    track.contentHint = device === "screen" ? "detail" : device === "camera" ? "motion" : "speech";
    // Unplugged, or the share stopped from the browser's own bar.
    track.addEventListener("ended", () => {
      if (this.#tracks.value.get(device) !== track) return;
      this.#drop(device);
      const wasWanted = this.#wanted[device];
      this.#wanted[device] = false;
      if (wasWanted) this.#options.emit(device, device === "screen" ? { kind: "off" } : { kind: "trouble", trouble: "missing" });
    });
    this.#tracks.value = new Map(this.#tracks.value).set(device, track);
  }

  #putSound(sound: MediaStreamTrack): void {
    sound.contentHint = "music";
    this.#sound.value = sound;
    sound.addEventListener("ended", () => {
      if (this.#sound.value !== sound) return;
      this.#sound.value = null;
      if (this.#tracks.value.has("screen")) this.#options.emit("screen", { kind: "on" });
    });
  }

  #drop(device: Device): void {
    if (device === "screen" && this.#sound.value !== null) {
      this.#sound.value.stop();
      this.#sound.value = null;
    }
    const track = this.#tracks.value.get(device);
    if (track === undefined) return;
    const rest = new Map(this.#tracks.value);
    rest.delete(device);
    this.#tracks.value = rest;
    track.stop();
  }
}

/** Absent on pages that were opened neither by https nor from this machine. */
function mediaDevices(): MediaDevices | undefined {
  return (navigator as Partial<Navigator>).mediaDevices;
}

async function permission(device: "microphone" | "camera"): Promise<PermissionState | "unknown"> {
  try {
    return (await navigator.permissions.query({ name: device })).state;
  } catch {
    return "unknown";
  }
}

export function canShareScreen(): boolean {
  return typeof mediaDevices()?.getDisplayMedia === "function";
}
