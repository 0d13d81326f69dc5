// A server of our own build, and people in it: one browser each page, with a picture of one colour and a tone of one pitch.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const REPOSITORY = fileURLToPath(new URL("../..", import.meta.url));
const BINARY = process.env.TERTULIA_BIN ?? `${process.env.CARGO_TARGET_DIR ?? `${REPOSITORY}/target`}/debug/tertulia`;

/** Colours that survive compression, as (red, green, blue). */
export const COLOURS = { red: [220, 30, 30], green: [30, 180, 30], blue: [30, 30, 220], magenta: [220, 30, 220] };

export async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** Starts a server, `more` of its keys set; `stop` ends it and says what it printed. */
export async function startServer(more = []) {
  const [http, priv, media] = [await freePort(), await freePort(), 20_000 + Math.floor(Math.random() * 20_000)];
  const sets = [`http.listen=127.0.0.1:${http}`, `private.listen=127.0.0.1:${priv}`, `media.port=${media}`, "log.filter=info", ...more];
  const child = spawn(BINARY, sets.flatMap((set) => ["--set", set]), { stdio: ["ignore", "pipe", "pipe"] });
  let printed = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (printed += text));
  const until = Date.now() + 15_000;
  const ready = async () => (await fetch(`http://127.0.0.1:${priv}/readyz`).catch(() => null))?.ok;
  while (!(await ready())) {
    if (Date.now() > until || child.exitCode !== null) throw new Error(`the server did not start: ${printed}`);
    await sleep(100);
  }
  return {
    url: `http://localhost:${http}`,
    load: async () => (await fetch(`http://127.0.0.1:${priv}/about/load`)).json(),
    stop: async () => {
      child.kill("SIGTERM");
      if (child.exitCode === null) await once(child, "exit");
      return { code: child.exitCode, printed };
    },
  };
}

/** A browser for several people. */
export async function startBrowser() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    headless: true,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--no-first-run",
      "--use-fake-ui-for-media-stream",
      "--autoplay-policy=no-user-gesture-required",
      "--disable-background-timer-throttling",
      "--disable-backgrounding-occluded-windows",
      "--disable-renderer-backgrounding",
    ],
  });
}

/** A page whose camera shows one colour with a moving bar, whose microphone hums, and whose sockets can be cut. */
export async function openPerson(browser, { colour, pitch = 440, size = [640, 360] }) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, permissions: ["camera", "microphone"] });
  const page = await context.newPage();
  page.errors = [];
  page.on("pageerror", (error) => page.errors.push(String(error)));
  await page.addInitScript(disguise, { colour: COLOURS[colour], screen: COLOURS.magenta, pitch, size });
  return page;
}

/** Joins a meeting on our page. */
export async function join(page, url, name) {
  await page.goto(url);
  await page.getByTestId("name-input").first().fill(name);
  await page.getByTestId("join").first().click();
  await page.getByTestId("meeting").first().waitFor({ timeout: 15_000 });
}

/** Runs in the page before anything else. */
function disguise({ colour, screen, pitch, size }) {
  const paint = ([r, g, b], [width, height], fps) => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d");
    let frame = 0;
    const draw = () => {
      context.fillStyle = `rgb(${r}, ${g}, ${b})`;
      context.fillRect(0, 0, width, height);
      context.fillStyle = "white";
      context.fillRect((frame * 8) % width, 0, width / 20, height);
      // A large picture has detail: without it so few bits are sent that no estimator can learn what the path carries.
      for (let n = 0; width >= 1280 && n < 400; n += 1) {
        context.fillStyle = `rgb(${r + Math.random() * 60 - 30}, ${g + Math.random() * 60 - 30}, ${b + Math.random() * 60 - 30})`;
        context.fillRect(Math.random() * width, Math.random() * height, 24, 24);
      }
      frame += 1;
    };
    draw();
    setInterval(draw, 1000 / fps);
    return canvas.captureStream(fps).getVideoTracks()[0];
  };
  const hum = (pitch) => {
    const audio = new AudioContext();
    const tone = audio.createOscillator();
    tone.frequency.value = pitch;
    const volume = audio.createGain();
    volume.gain.value = 0.3;
    const out = audio.createMediaStreamDestination();
    tone.connect(volume).connect(out);
    tone.start();
    return out.stream.getAudioTracks()[0];
  };
  navigator.mediaDevices.getUserMedia = async (wanted) => {
    const tracks = [];
    if (wanted?.audio) tracks.push(hum(pitch));
    if (wanted?.video) tracks.push(paint(colour, size, 15));
    return new MediaStream(tracks);
  };
  navigator.mediaDevices.getDisplayMedia = async (wanted) =>
    new MediaStream([paint(screen, [1280, 720], 5), ...(wanted?.audio ? [hum(1_500)] : [])]);

  window.peerConnections = [];
  const Connection = window.RTCPeerConnection;
  window.RTCPeerConnection = class extends Connection {
    constructor(...args) {
      super(...args);
      window.peerConnections.push(this);
    }
  };
  const Socket = window.WebSocket;
  window.sockets = [];
  window.signallingHeld = false;
  window.WebSocket = class extends Socket {
    constructor(url, ...rest) {
      const held = window.signallingHeld && String(url).includes("xmpp-websocket");
      super(held ? String(url).replace(/:\d+\//, ":9/") : url, ...rest);
      window.sockets.push(this);
    }
  };
  /** Cuts the signalling socket and keeps new ones from opening. */
  window.cutSignalling = () => {
    window.signallingHeld = true;
    for (const socket of window.sockets) if (socket.url.includes("xmpp-websocket")) socket.close();
  };
}

/** What each playing picture of others shows: its owner and mean colour, twice, so that movement shows. */
export async function pictures(page, selector = "video") {
  return page.evaluate(async (selector) => {
    const look = (video) => {
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [64, 36];
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(video, 0, 0, 64, 36);
      return context.getImageData(0, 0, 64, 36).data;
    };
    const mean = (data) => [0, 1, 2].map((c) => { let sum = 0; for (let i = c; i < data.length; i += 4) sum += data[i]; return sum / (data.length / 4); });
    const videos = [...document.querySelectorAll(selector)].filter((video) => video.videoWidth > 0);
    const before = videos.map(look);
    await new Promise((resolve) => setTimeout(resolve, 700));
    const after = videos.map(look);
    return videos.map((video, n) => {
      let changed = 0;
      for (let i = 0; i < after[n].length; i += 4) if ([0, 1, 2].some((c) => Math.abs(after[n][i + c] - before[n][i + c]) > 60)) changed += 1;
      return { tile: video.closest("[data-source]")?.dataset.source ?? video.dataset.owner ?? "", colour: mean(after[n]), height: video.videoHeight, moves: changed > 10 };
    });
  }, selector);
}

/** The name of the nearest colour, the moving bar allowed for. */
export function nameOf([r, g, b]) {
  const distance = ([x, y, z]) => (x - r) ** 2 + (y - g) ** 2 + (z - b) ** 2;
  return Object.entries(COLOURS).sort(([, p], [, q]) => distance(p) - distance(q))[0][0];
}

/** How many incoming sound streams carried energy within the next second. */
export async function voices(page) {
  return page.evaluate(async () => {
    const energies = async () => {
      const found = new Map();
      for (const connection of window.peerConnections) {
        for (const report of (await connection.getStats()).values()) {
          if (report.type === "inbound-rtp" && report.kind === "audio") found.set(report.ssrc, report.totalAudioEnergy ?? 0);
        }
      }
      return found;
    };
    const before = await energies();
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const after = await energies();
    return [...after].filter(([ssrc, energy]) => energy - (before.get(ssrc) ?? 0) > 0.001).length;
  });
}

/** Bits a second that the picture of one source cost within some seconds. */
export async function costOf(page, source, ms) {
  return page.evaluate(async ([source, ms]) => {
    const bytes = async () => {
      const track = document.querySelector(`[data-source="${source}"] video`)?.srcObject?.getVideoTracks()[0]?.id;
      for (const connection of window.peerConnections) {
        for (const report of (await connection.getStats()).values()) {
          if (report.type === "inbound-rtp" && report.trackIdentifier === track) return report.bytesReceived + report.headerBytesReceived;
        }
      }
      return NaN;
    };
    const [start, before] = [performance.now(), await bytes()];
    await new Promise((resolve) => setTimeout(resolve, ms));
    return ((await bytes()) - before) * 8_000 / (performance.now() - start);
  }, [source, ms]);
}

/** Waits until `probe` gives a value that `good` accepts; fails with the last value. */
export async function eventually(what, probe, good, ms = 20_000) {
  const until = Date.now() + ms;
  let value;
  do {
    value = await probe();
    if (good(value)) return value;
    await sleep(250);
  } while (Date.now() < until);
  throw new Error(`${what}: ${JSON.stringify(value)}`);
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
