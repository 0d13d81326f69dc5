/** How the page is built, and served while one works on it. */

import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import { defineConfig, type Plugin } from "vite";

/** Writes a compressed file beside each that gets smaller by it; the server has no such work then. */
function compressed(): Plugin {
  const encodings = {
    br: (data: Buffer): Buffer => brotliCompressSync(data, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } }),
    gz: (data: Buffer): Buffer => gzipSync(data, { level: 9 }),
  };
  return {
    name: "compressed",
    apply: "build",
    closeBundle() {
      for (const name of readdirSync("dist", { recursive: true, encoding: "utf8" })) {
        const path = join("dist", name);
        if (!/\.(js|css|html|svg|json)$/.test(name) || !statSync(path).isFile()) continue;
        const data = readFileSync(path);
        for (const [ending, encode] of Object.entries(encodings)) {
          const smaller = encode(data);
          if (smaller.length < data.length) writeFileSync(`${path}.${ending}`, smaller);
        }
      }
    },
  };
}

// Nothing is inlined and nothing comes from elsewhere, so that `script-src 'self'; style-src 'self'` holds.
export default defineConfig({
  base: "/",
  plugins: [compressed()],
  build: {
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  // `npx vite` for work on the page: everything that is the server's goes to a server on its usual port.
  server: {
    proxy: Object.fromEntries(
      ["/config.js", "/xmpp-websocket", "/colibri-ws"].map((path) => [path, { target: "http://localhost:8000", ws: true }]),
    ),
  },
});
