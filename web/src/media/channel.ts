/** The bridge channel: a WebSocket of JSON texts that is opened again for as long as its session lives. */

import { parseBridgeMessage, type FromBridge } from "../wire/channel";

export interface ChannelEvents {
  readonly handleOpen: (open: boolean) => void;
  readonly handleMessage: (message: FromBridge) => void;
}

const RETRY_FIRST_MS = 1_000;
const RETRY_MAX_MS = 60_000;

export class Channel {
  readonly #url: string;
  readonly #events: ChannelEvents;
  #socket: WebSocket | null = null;
  #retry: ReturnType<typeof setTimeout> | undefined;
  #pauseMs = RETRY_FIRST_MS;
  #closed = false;

  constructor(url: string, events: ChannelEvents) {
    this.#url = url;
    this.#events = events;
    this.#open();
  }

  /** Says something, if the channel is open; what is lost is said again when it opens. */
  send(text: string): void {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(text);
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#retry);
    this.#socket?.close();
  }

  #open(): void {
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    socket.onopen = () => {
      this.#pauseMs = RETRY_FIRST_MS;
      if (!this.#closed) this.#events.handleOpen(true);
    };
    socket.onmessage = (event: MessageEvent<unknown>) => {
      const message = typeof event.data === "string" && !this.#closed ? parseBridgeMessage(event.data) : null;
      if (message !== null) this.#events.handleMessage(message);
    };
    socket.onclose = () => {
      if (this.#closed) return;
      this.#events.handleOpen(false);
      this.#retry = setTimeout(() => this.#open(), this.#pauseMs);
      this.#pauseMs = Math.min(this.#pauseMs * 2, RETRY_MAX_MS);
    };
  }
}
