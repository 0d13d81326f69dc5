/** What the page itself knows beside the call: what is open, what is enlarged, what was said lately. */

import { computed, effect, signal } from "@preact/signals";
import type { Config } from "../config";
import type { Address } from "../address";
import { isInRoom, type Notice } from "../call/state";
import { words } from "../i18n/words";
import type { Devices } from "../media/devices";
import type { Meeting } from "../meeting";

/** What every component of a meeting needs. */
export interface Scene {
  readonly meeting: Meeting;
  readonly devices: Devices;
  readonly config: Config;
  readonly address: Address;
  readonly title: string;
}

export const chatOpen = signal(false);
/** What is shown large: a tile by its key, nothing at all, or what the page thinks best. */
export type Stage = { readonly kind: "best" } | { readonly kind: "none" } | { readonly kind: "tile"; readonly key: string };
export const stage = signal<Stage>({ kind: "best" });
/** The browser wants a click before it lets sound out. */
export const soundBlocked = signal(false);

export interface Toast {
  readonly id: number;
  readonly text: string;
  readonly urgent: boolean;
  /** Said in the chat: of no use once that is open. */
  readonly chat: boolean;
}
export const toasts = signal<readonly Toast[]>([]);
/** Said by screen readers, not shown. */
export const announcement = signal("");

const TOASTS_MAX = 4;
const TOAST_MS = 5_000;
const URGENT_TOAST_MS = 15_000;
let toastCount = 0;

export function toast(text: string, urgent: boolean, chat = false): void {
  const id = ++toastCount;
  toasts.value = [...toasts.value, { id, text, urgent, chat }].slice(-TOASTS_MAX);
  setTimeout(() => dismiss(id), urgent ? URGENT_TOAST_MS : TOAST_MS);
}

export function dismiss(id: number): void {
  toasts.value = toasts.value.filter((one) => one.id !== id);
}

effect(() => {
  if (chatOpen.value) toasts.value = toasts.peek().filter((one) => !one.chat);
});

export function handleNotice(notice: Notice): void {
  const w = words.value;
  const named = (name: string): string => (name === "" ? w.guest : name);
  switch (notice.kind) {
    case "joined":
      toast(w.joined(named(notice.name)), false);
      break;
    case "left":
      toast(w.left(named(notice.name)), false);
      break;
    case "sharing":
      toast(w.sharing(named(notice.name)), false);
      break;
    case "chat":
      if (chatOpen.peek()) announcement.value = w.said(named(notice.name), notice.body);
      else toast(w.said(named(notice.name), notice.body), false, true);
      break;
    case "muted-by-other":
      toast(w.mutedByOther[notice.device], true);
      break;
    case "trouble":
      toast(w.trouble[notice.device][notice.trouble], true);
      break;
    case "back":
      toast(w.back, false);
      break;
    case "no-bridge":
      toast(w.noBridge, true);
      break;
  }
}

/** How many lines of chat came while it was closed. */
export function unreadCount(meeting: Meeting): { readonly value: number } {
  const seen = signal(0);
  const foreign = computed(() => meeting.call.value.chat.filter((line) => !line.own).length);
  effect(() => {
    if (chatOpen.value) seen.value = foreign.value;
  });
  effect(() => {
    // Another meeting, another count.
    if (!isInRoom(meeting.call.value) && foreign.value < seen.peek()) seen.value = foreign.value;
  });
  return computed(() => Math.max(0, foreign.value - seen.value));
}
