/** After the meeting: why it is over, and the way back. */

import type { JSX } from "preact";
import type { LeaveReason } from "../call/state";
import { words } from "../i18n/words";
import { Mark } from "./icons";
import type { Scene } from "./store";

export function Left({ scene, why }: { readonly scene: Scene; readonly why: LeaveReason }): JSX.Element {
  const w = words.value;
  const { meeting } = scene;
  const { title, detail } = explain(why);
  return (
    <main class="left" data-testid="left" data-why={why.kind}>
      <section class="card" role="status">
        <Mark />
        <h1>{title}</h1>
        <p>{detail}</p>
        <div class="choices">
          <button
            type="button"
            class="button primary"
            data-testid="rejoin"
            onClick={() => meeting.dispatch({ kind: "join", name: meeting.call.peek().name })}
          >
            {w.rejoin}
          </button>
          <a class="button" href={scene.address.base} data-testid="home">
            {w.home}
          </a>
        </div>
      </section>
    </main>
  );
}

function explain(why: LeaveReason): { readonly title: string; readonly detail: string } {
  const w = words.value;
  switch (why.kind) {
    case "own":
      return { title: w.youLeft, detail: w.thanks };
    case "kicked":
      return { title: w.kicked, detail: why.text };
    case "ended":
      return { title: w.ended, detail: why.text };
    case "refused":
      return { title: w.refused.other, detail: why.why === "other" ? "" : w.refused[why.why] };
    case "no-conference":
      return { title: w.noConference, detail: why.text };
    case "unreachable":
      return { title: w.refused.other, detail: w.unreachable };
    case "lost":
      return { title: w.youLeft, detail: w.lost };
    case "no-media":
      return { title: w.youLeft, detail: w.noMedia };
  }
}

/** The page cannot hold a meeting at all. */
export function Impossible({ text }: { readonly text: string }): JSX.Element {
  return (
    <main class="left" data-testid="impossible">
      <section class="card" role="alert">
        <Mark />
        <p>{text}</p>
        <button type="button" class="button" onClick={() => location.reload()}>
          {words.value.rejoin}
        </button>
      </section>
    </main>
  );
}
