/** Which meeting the address bar names, and what it is called. */

import type { RoomName } from "./model";

/** Characters that a room's name cannot hold. */
const STRIPPED = /[:?#[\]@!$&'()*+,;=><"/]/g;

/** A written name without what no room's name can hold. */
export function cleanName(written: string): string {
  return written.replace(STRIPPED, "");
}

/** Longest room name, encoded; the server's limit. */
const ROOM_MAX = 200;

/**
 * The node of the room's address: decoded, NFKC, lower-case, encoded again, lower-case. Two people who type `/Été` and `/%c3%89T%c3%89`
 * meet.
 */
export function roomName(written: string): RoomName | null {
  const clean = decode(written).normalize("NFKC").toLowerCase().replace(STRIPPED, "").trim();
  let encoded: string;
  try {
    encoded = encodeURIComponent(clean).toLowerCase();
  } catch {
    return null; // half of a surrogate pair
  }
  return encoded === "" || encoded.length > ROOM_MAX ? null : (encoded as RoomName);
}

function decode(written: string): string {
  try {
    return decodeURIComponent(written);
  } catch {
    return written;
  }
}

export interface Address {
  readonly room: RoomName;
  /** Path without the room, as it stands: `/` or `/<tenant>/`. */
  readonly base: string;
}

/** `null` on a start page: that of everybody, or that of a tenant, which ends with a slash. */
export function parseAddress(pathname: string): Address | null {
  const segments = pathname.endsWith("/") ? [] : pathname.split("/").filter((segment) => segment !== "");
  const last = segments.at(-1);
  const room = last === undefined ? null : roomName(last);
  if (room === null) return null;
  const tenant = segments.slice(0, -1);
  return { room, base: tenant.length === 0 ? "/" : `/${tenant.join("/")}/` };
}

/** Where meetings begin that are named on this start page: `/` or `/<tenant>/`. */
export function startBase(pathname: string): string {
  return `/${pathname
    .split("/")
    .filter((segment) => segment !== "")
    .map((segment) => `${segment}/`)
    .join("")}`;
}

/** A name to show: `quiet-harbour` and `quietHarbour` are "Quiet Harbour". */
export function roomTitle(written: string): string {
  return decode(written)
    .replace(/([\p{Ll}\d])(\p{Lu})/gu, "$1 $2")
    .split(/[\s_-]+/)
    .filter((word) => word !== "")
    .map((word) => word[0]?.toUpperCase() + word.slice(1))
    .join(" ");
}
