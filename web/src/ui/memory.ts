/** What this browser remembers between visits. Works without storage, too: then nothing is remembered. */

export interface Remembered {
  readonly name: string;
  readonly microphoneId: string;
  readonly cameraId: string;
  readonly microphoneOn: boolean;
  readonly cameraOn: boolean;
  readonly machineUid: string;
  readonly recent: readonly Visit[];
}
export interface Visit {
  /** As in the address bar, without the leading slash. */
  readonly path: string;
  readonly at: number;
}

const KEY = "tertulia";
const RECENT_MAX = 5;
const NOTHING: Remembered = {
  name: "",
  microphoneId: "",
  cameraId: "",
  microphoneOn: true,
  cameraOn: true,
  machineUid: "",
  recent: [],
};

export function remembered(): Remembered {
  try {
    const stored: unknown = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    return typeof stored === "object" && stored !== null ? check(stored as Record<string, unknown>) : NOTHING;
  } catch {
    return NOTHING;
  }
}

function check(stored: Readonly<Record<string, unknown>>): Remembered {
  const text = (key: string): string => (typeof stored[key] === "string" ? stored[key].slice(0, 200) : "");
  const recent = Array.isArray(stored["recent"]) ? (stored["recent"] as unknown[]) : [];
  return {
    name: text("name"),
    microphoneId: text("microphoneId"),
    cameraId: text("cameraId"),
    microphoneOn: stored["microphoneOn"] !== false,
    cameraOn: stored["cameraOn"] !== false,
    machineUid: text("machineUid"),
    recent: recent
      .flatMap((visit): Visit[] => {
        const { path, at } = (visit ?? {}) as { path?: unknown; at?: unknown };
        return typeof path === "string" && typeof at === "number" ? [{ path, at }] : [];
      })
      .slice(0, RECENT_MAX),
  };
}

export function remember(change: Partial<Remembered>): void {
  try {
    localStorage.setItem(KEY, JSON.stringify({ ...remembered(), ...change }));
  } catch {
    // Storage is blocked: the page works without it.
  }
}

export function rememberVisit(path: string): void {
  const others = remembered().recent.filter((visit) => visit.path !== path);
  remember({ recent: [{ path, at: Date.now() }, ...others].slice(0, RECENT_MAX) });
}
