// Pages that use a build of lib-jitsi-meet, served from an origin of their own as an application would.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { once } from "node:events";

/** Serves the little application with this build; `stop` ends it. */
export async function serveApplication(bundle) {
  const script = (file) => [file, "text/javascript"];
  const files = {
    "/": ["ljm.html", "text/html"],
    "/ljm.js": script("ljm.js"),
    "/before.js": script("before.js"),
    "/jquery.js": script("node_modules/jquery/dist/jquery.min.js"),
    "/lib-jitsi-meet.js": script(bundle),
  };
  const server = createServer(async (request, response) => {
    const path = new URL(request.url, "http://localhost").pathname;
    const [file, type] = files[path] ?? [];
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
