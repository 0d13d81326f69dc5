// Other ways to the bridge than UDP and WebSocket: TCP where no UDP comes through, a data channel for what is said to the bridge.

import assert from "node:assert/strict";
import { test } from "node:test";
import { eventually, freePort, join, nameOf, openPerson, pictures, startBrowser, startServer, voices } from "./people.mjs";
import { enter, serveApplication } from "./stock.mjs";

const moving = async (page, selector) =>
  (await pictures(page, selector)).filter((picture) => picture.moves).map((picture) => nameOf(picture.colour)).sort().join();

/** Protocols of the candidate pairs on which media flows. */
const protocols = (page) =>
  page.evaluate(async () => {
    const found = new Set();
    for (const connection of window.peerConnections) {
      const stats = await connection.getStats();
      for (const report of stats.values()) {
        const pair = report.type === "transport" ? stats.get(report.selectedCandidatePairId) : undefined;
        if (pair) found.add(stats.get(pair.localCandidateId).protocol);
      }
    }
    return [...found].join();
  });

/** Keeps the page from sending to the bridge's UDP addresses, as a firewall would. */
const withoutUdp = (page) =>
  page.addInitScript(() => {
    const { prototype } = window.RTCPeerConnection;
    const set = prototype.setRemoteDescription;
    prototype.setRemoteDescription = function (description) {
      const sdp = description.sdp.replace(/^a=candidate:\S+ 1 udp .*\r\n/gim, "");
      return set.call(this, { type: description.type, sdp });
    };
  });

test("people whose network lets no UDP out meet over TCP", { timeout: 60_000 }, async () => {
  const server = await startServer([`media.tcp_port=${await freePort()}`]);
  const browser = await startBrowser();
  const room = `${server.url}/tcp-${Date.now()}`;
  const red = await openPerson(browser, { colour: "red" });
  const blue = await openPerson(browser, { colour: "blue", pitch: 700 });
  await withoutUdp(red);
  await withoutUdp(blue);
  await join(red, room, "red");
  await join(blue, room, "blue");
  const tile = '[data-testid="tile"][data-own="false"] video';
  await eventually("red sees blue", () => moving(red, tile), (seen) => seen === "blue", 20_000);
  await eventually("blue sees red", () => moving(blue, tile), (seen) => seen === "red", 20_000);
  for (const page of [red, blue]) {
    await eventually("sound", () => voices(page), (heard) => heard === 1);
    assert.equal(await protocols(page), "tcp");
  }
  await browser.close();
  const { code, printed } = await server.stop();
  assert.equal(code, 0, printed);
});

test("a stock client talks with the bridge on a data channel", { timeout: 60_000 }, async () => {
  const server = await startServer(["media.channel=datachannel"]);
  const browser = await startBrowser();
  const application = await serveApplication(process.env.LJM_BUNDLE ?? "node_modules/@lyno/lib-jitsi-meet/lib-jitsi-meet.min.js");
  const room = `data-${Date.now()}`;
  const red = await openPerson(browser, { colour: "red" });
  const blue = await openPerson(browser, { colour: "blue", pitch: 700 });
  await enter(red, application.url, server.url, room);
  await enter(blue, application.url, server.url, room);
  await eventually("red sees blue", () => moving(red, "video"), (seen) => seen === "blue", 20_000);
  await eventually("blue sees red", () => moving(blue, "video"), (seen) => seen === "red", 20_000);
  for (const page of [red, blue]) {
    const channels = () =>
      page.evaluate(async () => {
        const all = await Promise.all(window.peerConnections.map((connection) => connection.getStats()));
        const reports = all.flatMap((stats) => [...stats.values()]).filter((report) => report.type === "data-channel");
        return reports.map((report) => ({ state: report.state, label: report.label, received: report.messagesReceived }));
      });
    await eventually("the channel", channels, ([first]) => first?.state === "open" && first.received > 0);
    assert.ok(await page.evaluate(() => window.sockets.every((socket) => !socket.url.includes("colibri"))), "no WebSocket");
  }
  await browser.close();
  application.stop();
  await server.stop();
});
