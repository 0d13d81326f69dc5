// Makes docs/meeting.png: a real meeting of three on a server of our own build. `node picture.mjs`

import { join, openPerson, sleep, startBrowser, startServer } from "./people.mjs";

const server = await startServer();
const browser = await startBrowser();
const room = `${server.url}/quiet-harbour`;
const people = [];
for (const [name, colour] of [["Ada", "red"], ["Bo", "green"], ["Chiara", "blue"]]) {
  const page = await openPerson(browser, { colour });
  await join(page, room, name);
  people.push(page);
}
await people[1].getByTestId("chat").first().click();
await people[1].getByTestId("chat-input").first().fill("Good evening!");
await people[1].keyboard.press("Enter");
await people[0].getByTestId("chat").first().click();
await sleep(6_000);
await people[0].screenshot({ path: new URL("../../docs/meeting.png", import.meta.url).pathname });
await browser.close();
await server.stop();
