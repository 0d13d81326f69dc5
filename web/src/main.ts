/** Wires the page: address, configuration, words, devices, meeting, and what is shown. */

import { computed, effect } from "@preact/signals";
import { h, render, type ComponentChild } from "preact";
import { parseAddress, roomTitle, type Address } from "./address";
import { idle } from "./call/step";
import { readConfig, type Config } from "./config";
import { loadWords, pickLanguage, words } from "./i18n/words";
import { Devices } from "./media/devices";
import { Meeting } from "./meeting";
import { listenToKeys, TOOLBAR } from "./ui/actions";
import { randomHex } from "./random";
import { MeetingPage } from "./ui/app";
import { Impossible } from "./ui/left";
import { remember, remembered, rememberVisit } from "./ui/memory";
import { Start } from "./ui/start";
import { handleNotice, type Scene } from "./ui/store";
import "./ui/style/base.css";
import "./ui/style/pages.css";
import "./ui/style/meeting.css";

const APP_NAME = "Tertulia";

async function main(): Promise<void> {
  const root = document.getElementById("react");
  if (root === null) return;
  const asked = new URLSearchParams(location.search).get("lang");
  await loadWords(pickLanguage(asked, navigator.languages)).catch((error: unknown) => console.error("words not loaded", error));
  render(page(), root);
}

function page(): ComponentChild {
  const address = parseAddress(location.pathname);
  if (address === null) return h(Start, {});
  const title = roomTitle(location.pathname.split("/").findLast((segment) => segment !== "") ?? "");
  document.title = `${title} | ${APP_NAME}`;
  if (typeof RTCPeerConnection === "undefined") return h(Impossible, { text: words.value.unsupported });
  const config = readConfig((window as { config?: unknown }).config, new URL(location.href));
  if (config === null) return h(Impossible, { text: words.value.noConfig });
  return h(MeetingPage, { scene: openScene(config, address, title) });
}

function openScene(config: Config, address: Address, title: string): Scene {
  const known = remembered();
  const devices = new Devices(
    {
      cameraHeight: config.cameraHeight,
      screenFrameRate: config.screenFrameRate,
      emit: (device, state) => meeting.dispatch({ kind: "device", device, state }),
    },
    {
      ...(known.microphoneId === "" ? {} : { microphone: known.microphoneId }),
      ...(known.cameraId === "" ? {} : { camera: known.cameraId }),
    },
  );
  const url = new URL(config.websocket);
  url.searchParams.set("room", address.room);
  const place = {
    room: address.room,
    roomJid: `${address.room}@${config.muc}`,
    focus: config.focus,
    machineUid: machineUid(known.machineUid),
    hiddenDomain: config.hiddenDomain,
  };
  const meeting = new Meeting({
    call: idle({ place, name: known.name, codecs: receivableCodecs(config.codecOrder) }),
    link: { url: url.href, domain: config.domain },
    devices,
    codecOrder: config.codecOrder,
    handleNotice,
  });
  const scene: Scene = { meeting, devices, config, address, title };
  if (known.microphoneOn && !config.startWithAudioMuted) meeting.dispatch({ kind: "toggle", device: "microphone" });
  if (known.cameraOn && !config.startWithVideoMuted) meeting.dispatch({ kind: "toggle", device: "camera" });
  listenToPage(scene);
  return scene;
}

function listenToPage(scene: Scene): void {
  const { meeting } = scene;
  const inside = computed(() => meeting.call.value.kind === "in");
  listenToKeys(scene, TOOLBAR, inside);
  document.addEventListener("visibilitychange", () => meeting.dispatch({ kind: "visible", visible: !document.hidden }));
  // The others see an empty chair at once, not after a minute.
  window.addEventListener("pagehide", () => meeting.dispatch({ kind: "leave" }));
  effect(() => {
    if (inside.value) rememberVisit(location.pathname.slice(1));
  });
  // For who looks into the page, tests among them: the state, and a way to break the socket.
  Object.assign(window, { tertulia: { call: () => meeting.call.peek(), dropSocket: () => meeting.dropSocket() } });
}

/** Codecs that this browser can show, in the order of preference; VP8 all can. */
function receivableCodecs(order: readonly string[]): readonly string[] {
  const mimes = RTCRtpReceiver.getCapabilities("video")?.codecs.map((codec) => codec.mimeType.toLowerCase()) ?? ["video/vp8"];
  const all = [...new Set([...order, "vp8", "vp9", "h264", "av1"].map((codec) => codec.toLowerCase()))];
  return all.filter((codec) => mimes.includes(`video/${codec}`));
}

/** Names this browser to the focus; means nothing to anybody else. */
function machineUid(known: string): string {
  if (/^[0-9a-f]{32}$/.test(known)) return known;
  const fresh = randomHex(16);
  remember({ machineUid: fresh });
  return fresh;
}

void main();
