/** How the page is built, and served while one works on it. */

import { defineConfig } from "vite";

// Nothing is inlined and nothing comes from elsewhere, so that `script-src 'self'; style-src 'self'` holds.
export default defineConfig({
  base: "/",
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
