/** What a person can do in a meeting: each one record of name, key, look and effect. */

import type { ReadonlySignal } from "@preact/signals";
import { isOn, type Call, type Device } from "../call/state";
import type { Words } from "../i18n/en";
import { canShareScreen } from "../media/devices";
import type { IconName } from "./icons";
import { remember } from "./memory";
import { chatOpen, type Scene } from "./store";

export interface Action {
  readonly id: string;
  /** Pressed without Ctrl, Alt or Meta, outside of text fields. */
  readonly key: string | null;
  readonly label: (words: Words, call: Call) => string;
  readonly icon: (call: Call) => IconName;
  /** For buttons that stay pressed. */
  readonly pressed: ((call: Call) => boolean) | null;
  readonly look: (call: Call) => "plain" | "off" | "active" | "danger";
  readonly available: () => boolean;
  readonly run: (scene: Scene) => void;
}

function device(
  id: string,
  key: string,
  which: Device,
  labels: (words: Words) => readonly [string, string],
  icons: readonly [IconName, IconName],
): Action {
  const wanted = (call: Call): boolean => isOn(call.devices, which) || call.devices[which].kind === "starting";
  return {
    id,
    key,
    label: (words, call) => labels(words)[wanted(call) ? 1 : 0],
    icon: (call) => icons[wanted(call) ? 1 : 0],
    pressed: wanted,
    look: (call) => (which === "screen" ? (wanted(call) ? "active" : "plain") : wanted(call) ? "plain" : "off"),
    available: () => which !== "screen" || canShareScreen(),
    run: ({ meeting }) => {
      meeting.dispatch({ kind: "toggle", device: which });
      const { devices } = meeting.call.peek();
      remember({ microphoneOn: devices.microphone.kind !== "off", cameraOn: devices.camera.kind !== "off" });
    },
  };
}

export const microphoneAction = device("toggle-mic", "m", "microphone", (w) => [w.microphoneOn, w.microphoneOff], [
  "microphoneOff",
  "microphone",
]);
export const cameraAction = device("toggle-cam", "v", "camera", (w) => [w.cameraOn, w.cameraTurnOff], ["cameraOff", "camera"]);
export const screenAction = device("share", "d", "screen", (w) => [w.shareOn, w.shareOff], ["screen", "screenOff"]);

export const chatAction: Action = {
  id: "chat",
  key: "c",
  label: (words) => (chatOpen.value ? words.chatClose : words.chatOpen),
  icon: () => "chat",
  pressed: () => chatOpen.value,
  look: () => (chatOpen.value ? "active" : "plain"),
  available: () => true,
  run: () => {
    chatOpen.value = !chatOpen.value;
  },
};

export const leaveAction: Action = {
  id: "leave",
  key: null,
  label: (words) => words.leave,
  icon: () => "leave",
  pressed: null,
  look: () => "danger",
  available: () => true,
  run: ({ meeting }) => meeting.dispatch({ kind: "leave" }),
};

export const TOOLBAR: readonly Action[] = [microphoneAction, cameraAction, screenAction, chatAction, leaveAction];

/** Runs the action of a pressed key. Returns the function that stops listening. */
export function listenToKeys(scene: Scene, actions: readonly Action[], active: ReadonlySignal<boolean>): () => void {
  const handleKey = (event: KeyboardEvent): void => {
    if (!active.value || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
    const target = event.target instanceof Element ? event.target : null;
    if (target !== null && target.closest("input, textarea, select, [contenteditable]") !== null) return;
    const action = actions.find((one) => one.key === event.key.toLowerCase() && one.available());
    if (action === undefined) return;
    event.preventDefault();
    action.run(scene);
  };
  window.addEventListener("keyup", handleKey);
  return () => window.removeEventListener("keyup", handleKey);
}
