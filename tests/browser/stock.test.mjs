// A client that nobody here wrote: lib-jitsi-meet as it was in 2022, and another build when one is named by LJM_BUNDLE.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { eventually, join, nameOf, openPerson, pictures, startBrowser, startServer, voices } from "./people.mjs";
import { enter, serveApplication } from "./stock.mjs";

const BUNDLE = process.env.LJM_BUNDLE ?? "node_modules/@lyno/lib-jitsi-meet/lib-jitsi-meet.min.js";

let server;
let browser;
let application;
before(async () => {
  server = await startServer();
  browser = await startBrowser();
  application = await serveApplication(BUNDLE);
});
after(async () => {
  await browser?.close();
  application?.stop();
  await server?.stop();
});

const moving = async (page, selector) =>
  (await pictures(page, selector)).filter((picture) => picture.moves).map((picture) => nameOf(picture.colour)).sort().join();

test("two stock clients exchange pictures, sound and chat", { timeout: 120_000 }, async () => {
  const room = `stock-${Date.now()}`;
  const red = await openPerson(browser, { colour: "red" });
  const blue = await openPerson(browser, { colour: "blue", pitch: 700 });
  await enter(red, application.url, server.url, room);
  await enter(blue, application.url, server.url, room);
  await eventually("red sees blue", () => moving(red, "video"), (seen) => seen === "blue", 30_000);
  await eventually("blue sees red", () => moving(blue, "video"), (seen) => seen === "red", 30_000);
  for (const page of [red, blue]) await eventually("sound", () => voices(page), (heard) => heard === 1);
  await red.evaluate(() => window.conference.sendTextMessage("good evening"));
  await eventually("chat", () => blue.evaluate(() => window.chat), (chat) => chat.includes("good evening"));
  for (const page of [red, blue]) assert.deepEqual(await page.evaluate(() => window.log), []);
  await red.context().close();
  await blue.context().close();
});

test("a stock client and our page are in one meeting of a tenant, behind a password", { timeout: 120_000 }, async () => {
  const room = `mixed-${Date.now()}`;
  const stock = await openPerson(browser, { colour: "green" });
  const ours = await openPerson(browser, { colour: "blue", pitch: 700 });
  await enter(stock, application.url, `${server.url}/blue`, room);
  await stock.evaluate(() => window.conference.lock("4711"));
  // The same name outside of the tenant is another room: nobody is there, and no password.
  const elsewhere = await openPerson(browser, { colour: "red" });
  await join(elsewhere, `${server.url}/${room}`, "elsewhere");
  await elsewhere.getByTestId("alone").waitFor({ timeout: 10_000 });
  await elsewhere.context().close();
  await ours.goto(`${server.url}/blue/${room}`);
  await ours.getByTestId("name-input").first().fill("ours");
  await ours.getByTestId("join").first().click();
  await ours.getByTestId("password").fill("1234");
  await ours.keyboard.press("Enter");
  await ours.getByTestId("password-wrong").waitFor({ timeout: 10_000 });
  await ours.getByTestId("password").fill("4711");
  await ours.keyboard.press("Enter");
  await ours.getByTestId("meeting").first().waitFor({ timeout: 15_000 });
  const tile = '[data-testid="tile"][data-own="false"] video';
  await eventually("we see it", () => moving(ours, tile), (seen) => seen === "green", 30_000);
  await eventually("it sees us", () => moving(stock, "video"), (seen) => seen === "blue", 30_000);
  for (const page of [stock, ours]) await eventually("sound", () => voices(page), (heard) => heard === 1);
  await stock.evaluate(() => window.conference.sendTextMessage("hola"));
  await ours.getByTestId("chat").first().click();
  await ours.getByText("hola").first().waitFor({ timeout: 10_000 });
  await ours.getByTestId("chat-input").first().fill("hello");
  await ours.keyboard.press("Enter");
  await eventually("chat", () => stock.evaluate(() => window.chat), (chat) => chat.includes("hello"));
  await stock.context().close();
  await ours.context().close();
});
