// People on our own page: the meeting as it was promised.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { eventually, join, nameOf, openPerson, pictures, sleep, startBrowser, startServer, voices } from "./people.mjs";

let server;
let browser;
before(async () => {
  server = await startServer();
  browser = await startBrowser();
});
after(async () => {
  await browser?.close();
  const ended = await server?.stop();
  assert.equal(ended?.code, 0, "SIGTERM ends the server cleanly");
  assert.doesNotMatch(ended.printed, /ERROR/);
});

const others = (page) => pictures(page, '[data-testid="tile"][data-own="false"] video');
const colours = async (page) => (await others(page)).filter((picture) => picture.moves).map((picture) => nameOf(picture.colour)).sort();
const tiles = (page) => page.getByTestId("tile").count();

test("three people see and hear each other, share, lose a socket, and leave", { timeout: 240_000 }, async () => {
  const room = `${server.url}/three-${Date.now()}`;
  const people = { red: null, green: null, blue: null };
  const names = Object.keys(people);
  for (const [index, colour] of names.entries()) {
    people[colour] = await openPerson(browser, { colour, pitch: 300 + 200 * index });
    await join(people[colour], room, colour);
  }
  const expected = (own) => names.filter((name) => name !== own).sort();
  const all = async (check) => { for (const colour of names) await check(people[colour], colour); };

  await all((page, colour) =>
    eventually(`${colour} sees the others`, () => colours(page), (seen) => assertSame(seen, own(colour)), 30_000));
  await all((page, colour) => eventually(`${colour} hears the others`, () => voices(page), (heard) => heard === 2, 30_000));
  // It stays so.
  for (let second = 0; second < 20; second += 5) {
    await sleep(2_500);
    await all(async (page, colour) => assert.deepEqual(await colours(page), own(colour), `${colour} after ${second} s`));
  }
  await all(async (page, colour) => assert.equal(await voices(page), 2, `${colour} still hears two`));

  // A screen.
  await people.red.getByTestId("share").first().click();
  for (const viewer of ["green", "blue"]) {
    await eventually(`${viewer} sees the screen`, () => colours(people[viewer]), (seen) => seen.includes("magenta"));
  }
  await people.red.getByTestId("share").first().click();
  await eventually("the screen goes", () => colours(people.green), (seen) => assertSame(seen, own("green")));

  // A lost socket.
  const before = await tiles(people.red);
  await people.green.evaluate(() => window.cutSignalling());
  for (let second = 0; second < 5; second += 1) {
    assert.equal(await tiles(people.red), before, "nobody sees a leave");
    await sleep(1_000);
  }
  assert.deepEqual(await colours(people.green), own("green"), "media goes on");
  await people.green.evaluate(() => (window.signallingHeld = false));
  await eventually("the socket is back", () => people.green.evaluate(() => window.sockets.filter((s) => s.url.includes("xmpp-websocket") && s.readyState === 1).length), (open) => open === 1, 40_000);
  await people.green.getByTestId("chat").first().click();
  await people.green.getByTestId("chat-input").first().fill("back again");
  await people.green.keyboard.press("Enter");
  await people.red.getByTestId("chat").first().click();
  await people.red.getByText("back again").first().waitFor({ timeout: 10_000 });
  assert.equal(await tiles(people.red), before);

  // Leaving.
  await people.blue.getByTestId("leave").first().click();
  for (const stays of ["red", "green"]) {
    await eventually(`${stays} sees blue go`, () => tiles(people[stays]), (count) => count === before - 1);
  }
  for (const colour of names) assert.deepEqual(people[colour].errors, []);
  await people.red.context().close();
  await people.green.context().close();
  await people.blue.context().close();
  const empty = { sessions: 0, rooms: 0, conferences: 0, endpoints: 0 };
  await eventually("nothing is left", () => server.load(), (load) => assertSame(load, empty), 90_000);

  function own(colour) {
    return expected(colour);
  }
});

test("a small tile gets a small picture, the stage a large one", { timeout: 120_000 }, async () => {
  const room = `${server.url}/layers-${Date.now()}`;
  const sender = await openPerson(browser, { colour: "red", size: [1280, 720] });
  const viewer = await openPerson(browser, { colour: "green" });
  await join(sender, room, "sender");
  await join(viewer, room, "viewer");
  const ask = (height) =>
    viewer.evaluate((height) => {
      const channel = window.sockets.find((socket) => socket.url.includes("colibri-ws") && socket.readyState === 1);
      channel?.send(JSON.stringify({ colibriClass: "ReceiverVideoConstraints", lastN: -1, onStageSources: [], selectedSources: [], constraints: {}, defaultConstraints: { maxHeight: height } }));
    }, height);
  const height = async () => (await others(viewer))[0]?.height;
  await eventually("a picture", height, (lines) => lines > 0);
  await eventually("the full picture", async () => (await ask(720), height()), (lines) => lines === 720, 40_000);
  const start = Date.now();
  await eventually("180 lines", async () => (await ask(180), height()), (lines) => lines === 180, 5_000);
  assert.ok(Date.now() - start <= 6_000);
  await sender.context().close();
  await viewer.context().close();
});

/** For `eventually`: equality as a question. */
function assertSame(actual, expected) {
  try {
    assert.deepEqual(actual, expected);
    return true;
  } catch {
    return false;
  }
}
