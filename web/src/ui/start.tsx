/** The start page: a name for a new meeting, made up or one's own. */

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { cleanName, roomName, roomTitle, startBase } from "../address";
import { words } from "../i18n/words";
import { meetingName } from "../names";
import { randomUint32 } from "../random";
import { Icon, Mark } from "./icons";
import { remember, remembered, type Visit } from "./memory";

export function Start(): JSX.Element {
  const w = words.value;
  const base = startBase(location.pathname);
  const [suggestion, setSuggestion] = useState(() => meetingName(randomUint32));
  const [own, setOwn] = useState("");
  const [bad, setBad] = useState(false);
  const open = (event: Event): void => {
    event.preventDefault();
    const written = own.trim() === "" ? suggestion : own.trim().replace(/\s+/g, "-");
    const room = roomName(written);
    if (room === null) setBad(true);
    else location.assign(`${base}${encodeURIComponent(cleanName(written))}${location.search}`);
  };
  return (
    <main class="start" data-testid="start">
      <header>
        <Mark />
        <h1>Tertulia</h1>
        <p class="tagline">{w.tagline}</p>
      </header>
      <form class="card" onSubmit={open}>
        <p class="lead">{w.startLead}</p>
        <label for="room">{w.roomLabel}</label>
        <div class="field">
          <span class="host" aria-hidden="true">
            {location.host}
            {base}
          </span>
          <input
            id="room"
            data-testid="room-input"
            autocomplete="off"
            autocapitalize="off"
            spellcheck={false}
            placeholder={suggestion}
            value={own}
            aria-invalid={bad}
            aria-describedby={bad ? "room-problem" : undefined}
            onInput={(event) => {
              setOwn(event.currentTarget.value);
              setBad(false);
            }}
          />
          <button
            type="button"
            class="small"
            data-testid="new-name"
            aria-label={w.newName}
            title={w.newName}
            onClick={() => {
              setOwn("");
              setSuggestion(meetingName(randomUint32));
            }}
          >
            <Icon name="again" />
          </button>
        </div>
        {bad && (
          <p class="problem" id="room-problem" role="alert">
            {w.badName}
          </p>
        )}
        <button type="submit" class="button primary" data-testid="start-meeting">
          {w.start}
        </button>
      </form>
      <Recent />
    </main>
  );
}

function Recent(): JSX.Element | null {
  const w = words.value;
  const [visits, setVisits] = useState<readonly Visit[]>(() => remembered().recent);
  if (visits.length === 0) return null;
  const date = (at: number): string =>
    new Date(at).toLocaleDateString(document.documentElement.lang, { day: "numeric", month: "short" });
  return (
    <section class="recent" aria-label={w.recent}>
      <h2>{w.recent}</h2>
      <ul>
        {visits.map((visit) => (
          <li key={visit.path}>
            <a href={`/${visit.path}`}>{roomTitle(visit.path.split("/").at(-1) ?? "")}</a>
            <time dateTime={new Date(visit.at).toISOString()}>{date(visit.at)}</time>
          </li>
        ))}
      </ul>
      <button
        type="button"
        class="quiet"
        onClick={() => {
          remember({ recent: [] });
          setVisits([]);
        }}
      >
        {w.forget}
      </button>
    </section>
  );
}
