/** The meeting: people, controls, chat. */

import type { JSX } from "preact";
import { useEffect, useMemo, useState } from "preact/hooks";
import { isInRoom, type Call } from "../call/state";
import { words } from "../i18n/words";
import { TOOLBAR } from "./actions";
import { ActionButton } from "./button";
import { Chat } from "./chat";
import { Grid } from "./grid";
import { Icon } from "./icons";
import { chatOpen, soundBlocked, unreadCount, type Scene } from "./store";
import { allowSound, Sound } from "./video";

export function Room({ scene }: { readonly scene: Scene }): JSX.Element {
  const { meeting } = scene;
  const call = meeting.call.value;
  const unread = useMemo(() => unreadCount(meeting), [meeting]);
  const alone = isInRoom(call) && call.kind === "in" && call.endpoints.size === 0;
  return (
    <main class={`room ${chatOpen.value ? "with-chat" : ""}`} data-testid="meeting" data-state={call.kind}>
      <Header scene={scene} />
      <div class="floor">
        <Grid scene={scene} />
        {alone && <Invitation />}
        <Banner call={call} />
      </div>
      <nav class="toolbar" id="new-toolbox" aria-label={words.value.tools}>
        {TOOLBAR.map((action) => (
          <ActionButton key={action.id} action={action} scene={scene}>
            {action.id === "chat" && <Badge count={unread.value} />}
          </ActionButton>
        ))}
      </nav>
      {chatOpen.value && <Chat scene={scene} />}
      <Sounds scene={scene} />
    </main>
  );
}

function Badge({ count }: { readonly count: number }): JSX.Element | null {
  if (count === 0) return null;
  return (
    <span class="badge" data-testid="unread">
      <span aria-hidden="true">{count > 99 ? "99+" : count}</span>
      <span class="unseen">{words.value.unread(count)}</span>
    </span>
  );
}

function Header({ scene }: { readonly scene: Scene }): JSX.Element {
  const call = scene.meeting.call.value;
  const count = isInRoom(call) ? call.endpoints.size + 1 : 1;
  return (
    <header class="bar">
      <h1>{scene.title}</h1>
      <span class="count" title={words.value.people(count)}>
        <Icon name="people" />
        <span aria-hidden="true">{count}</span>
        <span class="unseen">{words.value.people(count)}</span>
      </span>
      <CopyLink look="small" />
    </header>
  );
}

function CopyLink({ look }: { readonly look: "small" | "wide" }): JSX.Element | null {
  const w = words.value;
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return undefined;
    const timer = setTimeout(() => setCopied(false), 2_000);
    return () => clearTimeout(timer);
  }, [copied]);
  // Pages that were not opened securely have none; the address bar is there for everybody.
  const clipboard = (navigator as Partial<Navigator>).clipboard;
  if (clipboard === undefined) return null;
  const copy = (): void => {
    clipboard.writeText(meetingLink()).then(
      () => setCopied(true),
      () => {},
    );
  };
  const label = copied ? w.copied : w.copyLink;
  return (
    <button
      type="button"
      class={look === "small" ? "small" : "button"}
      data-testid="copy-link"
      aria-label={label}
      title={label}
      onClick={copy}
    >
      <Icon name={copied ? "check" : "link"} />
      {look === "wide" && <span aria-live="polite">{label}</span>}
    </button>
  );
}

function meetingLink(): string {
  return `${location.origin}${location.pathname}`;
}

function Invitation(): JSX.Element {
  const w = words.value;
  return (
    <section class="invitation" data-testid="alone">
      <h2>{w.alone}</h2>
      <p>{w.aloneLead}</p>
      <code>{meetingLink().replace(/^https?:\/\//, "")}</code>
      <CopyLink look="wide" />
    </section>
  );
}

/** What is wrong right now, for as long as it is. */
function Banner({ call }: { readonly call: Call }): JSX.Element | null {
  const w = words.value;
  if (soundBlocked.value) {
    return (
      <p class="banner" role="status">
        <Icon name="sound" />
        <span>{w.soundBlocked}</span>
        <button type="button" class="button" data-testid="allow-sound" onClick={allowSound}>
          {w.soundOn}
        </button>
      </p>
    );
  }
  const text = trouble(call);
  if (text === null) return null;
  return (
    <p class="banner" role="status" data-testid="banner">
      <span class="spinner" aria-hidden="true" />
      <span>{text}</span>
    </p>
  );
}

function trouble(call: Call): string | null {
  const w = words.value;
  if (!isInRoom(call)) return call.kind === "connecting" || call.kind === "asking" ? w.rejoining : null;
  if (call.link === "lost") return w.linkLost;
  const ice = call.session?.ice;
  const mending = call.restarts > 0 && ice !== "connected";
  return mending || ice === "interrupted" || ice === "restarting" ? w.mediaLost : null;
}

function Sounds({ scene }: { readonly scene: Scene }): JSX.Element {
  const call = scene.meeting.call.value;
  const remote = isInRoom(call) ? [...(call.session?.remote.values() ?? [])] : [];
  return (
    <div hidden>
      {remote.map((source) => {
        const track = source.kind === "audio" ? scene.meeting.tracks.value.get(source.name) : undefined;
        return track === undefined ? null : <Sound key={source.name} track={track} source={source.name} endpoint={source.owner} />;
      })}
    </div>
  );
}
