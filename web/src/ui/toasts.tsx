/** Short notices in a corner, and the same for who listens instead of looking. */

import type { JSX } from "preact";
import { words } from "../i18n/words";
import { Icon } from "./icons";
import { announcement, dismiss, toasts } from "./store";

export function Toasts(): JSX.Element {
  const w = words.value;
  return (
    <>
      <ul class="toasts" data-testid="toasts" aria-live="polite">
        {toasts.value.map((one) => (
          <li key={one.id} class={`toast ${one.urgent ? "urgent" : ""}`}>
            {one.urgent && <Icon name="alert" />}
            <span>{one.text}</span>
            <button type="button" class="tiny" aria-label={w.dismiss} onClick={() => dismiss(one.id)}>
              <Icon name="close" />
            </button>
          </li>
        ))}
      </ul>
      <p class="unseen" role="status" aria-live="polite">
        {announcement.value}
      </p>
    </>
  );
}
