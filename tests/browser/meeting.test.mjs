// People on our own page: the meeting as it was promised.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { costOf, eventually, join, nameOf, openPerson, pictures, sleep, startBrowser, startServer, voices } from "./people.mjs";

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

  // A screen, which is heard while the microphone is off.
  await people.red.getByTestId("toggle-mic").first().click();
  await eventually("red is silent", () => voices(people.green), (heard) => heard === 1);
  await people.red.getByTestId("share").first().click();
  for (const viewer of ["green", "blue"]) {
    await eventually(`${viewer} sees the screen`, () => colours(people[viewer]), (seen) => seen.includes("magenta"));
  }
  await eventually("green hears the screen", () => voices(people.green), (heard) => heard === 2);
  await people.red.getByTestId("share").first().click();
  await eventually("the screen goes", () => colours(people.green), (seen) => assertSame(seen, own("green")));
  await eventually("and its sound", () => voices(people.green), (heard) => heard === 1);
  await people.red.getByTestId("toggle-mic").first().click();
  await eventually("red speaks again", () => voices(people.green), (heard) => heard === 2);

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

test("a picture is as large as its tile, and a thumbnail costs little", { timeout: 120_000 }, async () => {
  const room = `${server.url}/layers-${Date.now()}`;
  const [one, two] = [await openPerson(browser, { colour: "red", size: [1280, 720] }), await openPerson(browser, { colour: "blue", size: [1280, 720] })];
  const viewer = await openPerson(browser, { colour: "green" });
  await join(one, room, "One");
  await join(two, room, "Two");
  await join(viewer, room, "Viewer");
  const tileOf = async (page) => viewer.locator(`[data-endpoint="${await page.evaluate(() => window.tertulia.call().self)}"][data-own="false"]`);
  const [stage, thumbnail] = [await tileOf(one), await tileOf(two)];
  const lines = (tile) => tile.locator("video").first().evaluate((video) => video.videoHeight).catch(() => 0);
  for (const tile of [stage, thumbnail]) await eventually("a picture", () => lines(tile), (height) => height > 0, 30_000);
  await stage.getByTestId("enlarge").click();
  // The first time the senders' encoders and whoever estimates the path have to warm up; later changes are quick.
  await eventually("720 lines on the stage", () => lines(stage), (height) => height === 720, 40_000);
  await eventually("180 lines beside it", () => lines(thumbnail), (height) => height === 180, 8_000);
  const cost = await costOf(viewer, await thumbnail.getAttribute("data-source"), 5_000);
  assert.ok(cost > 10_000 && cost < 200_000, `a thumbnail costs ${Math.round(cost / 1000)} kbit/s`);
  await viewer.setViewportSize({ width: 480, height: 360 });
  await eventually("180 lines in a small window", () => lines(stage), (height) => height === 180, 8_000);
  await viewer.setViewportSize({ width: 1280, height: 800 });
  await eventually("720 lines in a large one", () => lines(stage), (height) => height === 720, 8_000);
  for (const page of [one, two, viewer]) {
    assert.deepEqual(page.errors, []);
    await page.context().close();
  }
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
