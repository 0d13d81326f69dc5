// Pages that use a build of lib-jitsi-meet, served from an origin of their own as an application would.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { once } from "node:events";

/** Serves the little application with this build; `stop` ends it. */
export async function serveApplication(bundle) {
  const files = { "/": ["ljm.html", "text/html"], "/ljm.js": ["ljm.js", "text/javascript"] };
  const server = createServer(async (request, response) => {
    const path = new URL(request.url, "http://localhost").pathname;
    const [file, type] = path === "/lib-jitsi-meet.js" ? [bundle, "text/javascript"] : (files[path] ?? []);
    if (!file) return response.writeHead(404).end();
    response.writeHead(200, { "content-type": type }).end(await readFile(new URL(file, import.meta.url)));
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  return { url: `http://localhost:${server.address().port}`, stop: () => server.close() };
}

/** Enters a room with it. */
export async function enter(page, application, server, room) {
  await page.goto(application);
  await page.evaluate(([server, room]) => window.enter(server, room), [server, room]);
  await page.waitForFunction(() => window.joined, null, { timeout: 15_000 });
}
