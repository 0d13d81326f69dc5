/** The chat beside the meeting. */

import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { ChatLine } from "../call/state";
import { words } from "../i18n/words";
import { randomHex } from "../random";
import { CHAT_MAX } from "../wire/chat";
import { Icon } from "./icons";
import { chatOpen, type Scene } from "./store";

export function Chat({ scene }: { readonly scene: Scene }): JSX.Element {
  const w = words.value;
  const { meeting } = scene;
  const { chat } = meeting.call.value;
  const list = useRef<HTMLOListElement>(null);
  const field = useRef<HTMLTextAreaElement>(null);
  const [text, setText] = useState("");
  useEffect(() => {
    field.current?.focus();
    // Back to where the chat was opened from.
    return () => document.querySelector<HTMLElement>("[data-testid=chat]")?.focus({ preventScroll: true });
  }, []);
  useEffect(() => list.current?.lastElementChild?.scrollIntoView({ block: "end" }), [chat.length]);
  const send = (): void => {
    meeting.dispatch({ kind: "say", body: text, id: randomHex(12), at: Date.now() });
    setText("");
    field.current?.focus();
  };
  return (
    <aside class="chat" data-testid="chat-panel" aria-label={w.chat}>
      <header>
        <h2>{w.chat}</h2>
        <button
          type="button"
          class="small"
          data-testid="chat-close"
          aria-label={w.chatClose}
          title={w.chatClose}
          onClick={() => (chatOpen.value = false)}
        >
          <Icon name="close" />
        </button>
      </header>
      <ol ref={list} class="lines" data-testid="chat-lines" aria-live="polite" aria-label={w.chat}>
        {chat.length === 0 && <li class="empty">{w.chatEmpty}</li>}
        {chat.map((line, index) => (
          <Line key={line.id || index} line={line} follows={follows(chat[index - 1], line)} />
        ))}
      </ol>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          send();
        }}
      >
        <textarea
          ref={field}
          data-testid="chat-input"
          rows={1}
          maxLength={CHAT_MAX}
          placeholder={w.chatPlaceholder}
          aria-label={w.chatPlaceholder}
          value={text}
          onInput={(event) => setText(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
              event.preventDefault();
              send();
            } else if (event.key === "Escape") {
              chatOpen.value = false;
            }
          }}
        />
        <button
          type="submit"
          class="small accent"
          data-testid="chat-send"
          disabled={text.trim() === ""}
          aria-label={w.send}
          title={w.send}
        >
          <Icon name="send" />
        </button>
      </form>
    </aside>
  );
}

/** Lines of one person within a few minutes stand under one name. */
function follows(before: ChatLine | undefined, line: ChatLine): boolean {
  return before !== undefined && before.from === line.from && before.isPrivate === line.isPrivate && line.at - before.at < 180_000;
}

function Line({ line, follows: joined }: { readonly line: ChatLine; readonly follows: boolean }): JSX.Element {
  const w = words.value;
  const time = new Date(line.at);
  return (
    <li class={`line ${line.own ? "own" : ""} ${joined ? "joined" : ""}`} data-testid="chat-line" data-from={line.from}>
      {!joined && (
        <div class="who">
          <b>{line.own ? w.you : line.name || w.guest}</b>
          {line.isPrivate && <span>{w.privately}</span>}
          <time dateTime={time.toISOString()}>
            {time.toLocaleTimeString(document.documentElement.lang, { hour: "2-digit", minute: "2-digit" })}
          </time>
        </div>
      )}
      <p>
        {withLinks(line.body)}
        {line.pending && <em> {w.sending}</em>}
      </p>
    </li>
  );
}

/** Text with its web addresses made clickable; nothing else of it is interpreted. */
function withLinks(body: string): readonly (string | JSX.Element)[] {
  return body.split(/(https?:\/\/[^\s<>"']+)/g).map((part, index) =>
    index % 2 === 0 ? (
      part
    ) : (
      <a href={part} target="_blank" rel="noopener noreferrer" key={index}>
        {part}
      </a>
    ),
  );
}
