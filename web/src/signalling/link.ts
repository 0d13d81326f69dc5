/**
 * The signalling socket: XMPP over WebSocket through Strophe, with resumption (XEP-0198) after a lost socket.
 *
 * Emits what came and what became of the connection; decides nothing about the meeting.
 */

import { Strophe } from "strophe.js";
import { fromDom, write, type Xml } from "../wire/xml";

export type LinkEvent =
  | { readonly kind: "up"; readonly jid: string; readonly resumed: boolean }
  | { readonly kind: "lost" }
  | { readonly kind: "failed" }
  | { readonly kind: "stanza"; readonly stanza: Xml };

export interface LinkOptions {
  /** `ws:` or `wss:`, with the room as parameter. */
  readonly url: string;
  /** The domain to log in to. */
  readonly domain: string;
}

type StropheConnection = InstanceType<typeof Strophe.Connection>;

/** Strophe's resumable state, as far as it is looked into here. */
interface ResumeState {
  readonly id: string | null;
  /** Seconds that the server keeps a lost session. */
  readonly max: number | null;
}
/** The hook of Strophe's stream management that this shell needs. */
interface ResumeHook {
  onFailed: (view: unknown, resumeFailed: boolean | undefined) => void;
}

/** One attempt to get through, from opening the socket to the end of the login. */
const ATTEMPT_MS = 8_000;
/** Pauses before attempts, each spread by up to half as much again; the last repeats for as long as the server keeps the session. */
const PAUSES_MS = [400, 800, 1_500, 2_000] as const;
/** Attempts of a first connection; afterwards there is nothing to lose by telling the person. */
const FIRST_ATTEMPTS = 3;
/** How long the server keeps a lost session when it does not say. */
const KEPT_DEFAULT_S = 60;
/** A path without any traffic is tried after this long, and given up after two tries without an answer. */
const PING_AFTER_MS = 10_000;
const PING_PATIENCE_MS = 5_000;
const PINGS_MAX = 2;
/** Stanzas kept while the socket is down. More than that and the meeting is better joined anew. */
const OUTBOX_MAX = 500;

// Whatever happens to the connection is an event here, and nothing to print.
Strophe.setLogLevel(Strophe.LogLevel.FATAL);

export class Link {
  readonly #options: LinkOptions;
  readonly #emit: (event: LinkEvent) => void;
  #connection: StropheConnection | null = null;
  #kept: ResumeState | null = null;
  #phase: "closed" | "opening" | "up" | "waiting" = "closed";
  #attempts = 0;
  /** When the socket was lost; resumption is possible for a while from then on. */
  #lostAt: number | null = null;
  #outbox: Xml[] = [];
  #retry: ReturnType<typeof setTimeout> | undefined;
  #deadline: ReturnType<typeof setTimeout> | undefined;
  #pinger: ReturnType<typeof setInterval> | undefined;
  #heardAt = 0;
  #pingSentAt: number | null = null;
  #pingsLost = 0;
  #pings = 0;

  constructor(options: LinkOptions, emit: (event: LinkEvent) => void) {
    this.#options = options;
    this.#emit = emit;
    window.addEventListener("online", () => {
      if (this.#phase === "waiting") this.#open();
    });
  }

  /** Starts a new session, whatever there was before. */
  connect(): void {
    this.close([]);
    this.#attempts = 0;
    this.#open();
  }

  send(stanza: Xml): void {
    if (this.#phase === "up") this.#transmit(stanza);
    else if (this.#phase !== "closed" && this.#outbox.length < OUTBOX_MAX) this.#outbox.push(stanza);
  }

  /** Says goodbye, if there is somebody to say it to, and forgets the session. */
  close(last: readonly Xml[]): void {
    this.#stopTimers();
    const connection = this.#connection;
    const wasUp = this.#phase === "up";
    this.#phase = "closed";
    this.#connection = null;
    this.#kept = null;
    this.#lostAt = null;
    this.#outbox = [];
    if (connection === null) return;
    if (wasUp) for (const stanza of last) connection.send(toElement(stanza));
    connection.connect_callback = () => {};
    connection.disconnect();
  }

  /** Drops the socket as a broken network would; the session stays. For trying out. */
  dropSocket(): void {
    this.#connection?._doDisconnect();
  }

  #open(): void {
    this.#stopTimers();
    this.#phase = "opening";
    this.#attempts += 1;
    const connection = this.#connection ?? this.#create();
    this.#connection = connection;
    connection.reset();
    connection.service = this.#url();
    this.#deadline = setTimeout(() => this.#attemptFailed(connection), ATTEMPT_MS);
    connection.connect(this.#options.domain, "", (status: number) => {
      if (connection === this.#connection) this.#statusChanged(connection, status);
    });
  }

  #create(): StropheConnection {
    const connection = new Strophe.Connection(this.#options.url, {
      mechanisms: [Strophe.SASLAnonymous],
      enableStreamManagement: true,
      streamManagement: {
        // Outlives a socket, not the page: a reloaded page is another occupant.
        storage: {
          load: () => this.#kept as never,
          save: (_key: string, state: ResumeState) => {
            if (connection === this.#connection) this.#kept = state;
          },
          clear: () => {
            if (connection === this.#connection) this.#kept = null;
          },
        },
      },
    });
    const hook: ResumeHook = connection.sm as ResumeHook;
    hook.onFailed = (_view, resumeFailed) => {
      if (resumeFailed === true && connection === this.#connection) queueMicrotask(() => this.#sessionGone(connection));
    };
    return connection;
  }

  /** The server forgot the session: start over with nothing of the old one, least of all its unsent stanzas. */
  #sessionGone(connection: StropheConnection): void {
    if (connection !== this.#connection) return;
    this.close([]);
    this.#emit({ kind: "failed" });
  }

  #url(): string {
    const { url } = this.#options;
    const id = this.#kept?.id;
    return id === null || id === undefined ? url : `${url}${url.includes("?") ? "&" : "?"}previd=${id}`;
  }

  #statusChanged(connection: StropheConnection, status: number): void {
    const { Status } = Strophe;
    const over: readonly number[] = [Status.CONNFAIL, Status.AUTHFAIL, Status.ERROR, Status.DISCONNECTED];
    if (status === Status.CONNECTED) this.#connected(connection);
    else if (status === Status.DISCONNECTED && this.#phase === "up") this.#lost();
    else if (over.includes(status)) this.#attemptFailed(connection);
  }

  #connected(connection: StropheConnection): void {
    clearTimeout(this.#deadline);
    this.#phase = "up";
    this.#attempts = 0;
    this.#lostAt = null;
    this.#heardAt = performance.now();
    this.#pingSentAt = null;
    this.#pingsLost = 0;
    this.#pinger = setInterval(() => this.#ping(), 1_000);
    connection.addHandler(
      (element: Element) => {
        this.#received(connection, element);
        return true;
      },
      "",
      "",
      "",
    );
    const resumed = connection.hasResumed();
    const outbox = this.#outbox;
    this.#outbox = [];
    // What was meant for another session is not said in a new one; what was said while the socket was down comes before news.
    if (resumed) for (const stanza of outbox) this.#transmit(stanza);
    this.#emit({ kind: "up", jid: connection.jid, resumed });
  }

  #received(connection: StropheConnection, element: Element): void {
    if (connection !== this.#connection) return;
    this.#heardAt = performance.now();
    this.#pingSentAt = null;
    this.#pingsLost = 0;
    if (!["iq", "presence", "message"].includes(element.localName)) return;
    const stanza = fromDom(element);
    if (stanza.name === "iq" && stanza.attrs["id"]?.startsWith("ping-") === true && stanza.attrs["type"] !== "get") return;
    try {
      this.#emit({ kind: "stanza", stanza });
    } catch (error) {
      // Strophe takes a handler that throws away, silently.
      console.error("stanza not handled", error);
    }
  }

  #lost(): void {
    this.#lostAt = Date.now();
    this.#emit({ kind: "lost" });
    this.#schedule();
  }

  #attemptFailed(connection: StropheConnection): void {
    if (connection !== this.#connection || this.#phase !== "opening") return;
    clearTimeout(this.#deadline);
    this.#phase = "waiting";
    // Late events of the given-up attempt find no phase to act in.
    connection._doDisconnect();
    const keptMs = (this.#kept?.max ?? KEPT_DEFAULT_S) * 1000;
    const over = this.#lostAt === null ? this.#attempts >= FIRST_ATTEMPTS : Date.now() - this.#lostAt > keptMs;
    if (over) {
      this.close([]);
      this.#emit({ kind: "failed" });
    } else {
      this.#schedule();
    }
  }

  #schedule(): void {
    this.#stopTimers();
    this.#phase = "waiting";
    const pause = PAUSES_MS[Math.min(this.#attempts, PAUSES_MS.length - 1)] ?? 0;
    this.#retry = setTimeout(() => this.#open(), pause * (1 + Math.random() / 2));
  }

  #ping(): void {
    const now = performance.now();
    if (this.#pingSentAt !== null && now - this.#pingSentAt > PING_PATIENCE_MS) {
      this.#pingSentAt = null;
      this.#pingsLost += 1;
      if (this.#pingsLost >= PINGS_MAX) {
        this.#connection?._doDisconnect();
        return;
      }
    }
    const due = now - this.#heardAt > PING_AFTER_MS || this.#pingsLost > 0;
    if (!due || this.#pingSentAt !== null) return;
    this.#pingSentAt = now;
    this.#pings += 1;
    const attrs = { type: "get", to: this.#options.domain, id: `ping-${this.#pings}` };
    this.#transmit({ name: "iq", ns: null, attrs, nodes: [{ name: "ping", ns: "urn:xmpp:ping", attrs: {}, nodes: [] }] });
  }

  #transmit(stanza: Xml): void {
    this.#connection?.send(toElement(stanza));
  }

  #stopTimers(): void {
    clearTimeout(this.#retry);
    clearTimeout(this.#deadline);
    clearInterval(this.#pinger);
  }
}

/** Strophe writes attributes only, so `xmlns` has to be one: parsed text has it, built elements would not. */
function toElement(stanza: Xml): Element {
  return new DOMParser().parseFromString(write(stanza), "text/xml").documentElement;
}
