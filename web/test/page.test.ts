/** The small parts of the page: names, addresses, configuration, languages, sizes, troubles. */

import { describe, expect, test } from "vitest";
import { parseAddress, roomName, roomTitle, startBase } from "../src/address";
import { readConfig } from "../src/config";
import { en } from "../src/i18n/en";
import { es } from "../src/i18n/es";
import { pickLanguage } from "../src/i18n/words";
import { meetingName, NAME_BITS, uniform } from "../src/names";
import { arrange } from "../src/ui/arrange";
import { troubleOf } from "../src/media/trouble";

describe("room names", () => {
  test.each([
    ["Standup", "standup"],
    ["Été", "%c3%a9t%c3%a9"],
    ["%c3%89T%c3%89", "%c3%a9t%c3%a9"],
    ["Café 2", "caf%c3%a9%202"],
    ["a?b#c[d]", "abcd"],
    ["ﬁn", "fin"],
    ["100%", "100%25"],
  ])("%s is %s", (written, name) => {
    expect(roomName(written)).toBe(name);
  });
  test("that are nothing are no room", () => {
    for (const nothing of ["", "  ", "???", "\ud800"]) expect(roomName(nothing)).toBeNull();
    expect(roomName("x".repeat(300))).toBeNull();
  });
  test("are the last part of a path; what precedes is the tenant", () => {
    expect(parseAddress("/")).toBeNull();
    expect(parseAddress("/Daily")).toEqual({ room: "daily", base: "/" });
    expect(parseAddress("/blue/Daily")).toEqual({ room: "daily", base: "/blue/" });
    expect(parseAddress("/blue/")).toBeNull();
  });
  test("made on a tenant's start page are the tenant's", () => {
    expect(["/", "/blue/", "//blue//"].map(startBase)).toEqual(["/", "/blue/", "/blue/"]);
  });
  test("are shown in words", () => {
    expect(roomTitle("my-dailyRoom")).toBe("My Daily Room");
    expect(roomTitle("%C3%89t%C3%A9_2026")).toBe("Été 2026");
  });
});

describe("made-up names", () => {
  test("are hard to guess", () => {
    expect(NAME_BITS).toBeGreaterThanOrEqual(48);
    let state = 7;
    const random = (): number => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0);
    const names = new Set(Array.from({ length: 500 }, () => meetingName(random)));
    expect(names.size).toBe(500);
    for (const name of names) {
      expect(name).toMatch(/^[a-z]+-[a-z]+-[a-z]+$/);
      expect(roomName(name)).toBe(name);
    }
  });
  test("favour no syllable: values beyond the last whole multiple are thrown away", () => {
    const values = [2 ** 32 - 1, 2 ** 32 - 6, 83];
    expect(uniform(10, () => values.shift() ?? 0)).toBe(3);
    expect(values).toEqual([]);
  });
});

describe("configuration", () => {
  const base = new URL("https://meet.example/daily");
  test("is checked", () => {
    const raw = {
      hosts: { domain: "meet.jitsi", muc: "muc.meet.jitsi" },
      websocket: "wss://meet.example/xmpp-websocket",
      resolution: 360,
      videoQuality: { codecPreferenceOrder: ["VP9", 7] },
    };
    expect(readConfig(raw, base)).toMatchObject({
      focus: "focus.meet.jitsi",
      websocket: "wss://meet.example/xmpp-websocket",
      cameraHeight: 360,
      codecOrder: ["VP9"],
    });
    expect(readConfig({ ...raw, websocket: "/xmpp-websocket" }, base)?.websocket).toBe("wss://meet.example/xmpp-websocket");
  });
  test("without what a meeting needs is none", () => {
    for (const raw of [undefined, null, 7, {}, { hosts: { domain: "x" }, websocket: "y" }])
      expect(readConfig(raw, base)).toBeNull();
  });
});

describe("languages", () => {
  test("are asked for by the address, then by the browser", () => {
    expect(pickLanguage("es", ["en-GB"])).toBe("es");
    expect(pickLanguage(null, ["fr", "es-MX", "en"])).toBe("es");
    expect(pickLanguage("xx", ["fr"])).toBe("en");
    expect(pickLanguage("constructor", [])).toBe("en");
  });
  test("have the same words, none of them empty", () => {
    const flat = (value: unknown, path = ""): string[] =>
      typeof value === "object" && value !== null
        ? Object.entries(value).flatMap(([key, entry]) => flat(entry, `${path}.${key}`))
        : [path + (value === "" ? " is empty" : "")];
    expect(flat(es)).toEqual(flat(en));
    expect(flat(en).filter((path) => path.endsWith("empty"))).toEqual([]);
  });
});

describe("tiles", () => {
  test.each([1, 2, 3, 4, 5, 7, 9, 12, 20, 25])("%i fit their space without overlap", (count) => {
    for (const space of [
      { width: 1280, height: 640 },
      { width: 390, height: 640 },
      { width: 800, height: 300 },
    ]) {
      const { width, height } = arrange(count, space, 8);
      const columns = Math.floor((space.width + 8) / (width + 8));
      const rows = Math.ceil(count / columns);
      expect(width / height).toBeLessThanOrEqual(1.8);
      if (height > 96) expect(rows * (height + 8) - 8).toBeLessThanOrEqual(space.height + 1);
    }
  });
  test("stay large enough to be of use in a crowd", () => {
    expect(arrange(200, { width: 1280, height: 640 }, 8).height).toBeGreaterThanOrEqual(90);
  });
  test("of a space without size have none", () => {
    expect(arrange(3, { width: 0, height: 0 }, 8)).toEqual({ width: 0, height: 0 });
  });
});

describe("trouble with devices", () => {
  const named = (name: string): Error => Object.assign(new Error(name), { name });
  test.each([
    ["NotAllowedError", "refused"],
    ["NotFoundError", "missing"],
    ["NotReadableError", "busy"],
    ["OverconstrainedError", "unsuitable"],
    ["TypeError", "insecure"],
    ["WhateverError", "failed"],
  ])("%s is %s", (name, trouble) => {
    expect(troubleOf(named(name), false)).toBe(trouble);
  });
  test("is not that a person closed the chooser", () => {
    expect(troubleOf(named("NotAllowedError"), true)).toBeNull();
  });
});
