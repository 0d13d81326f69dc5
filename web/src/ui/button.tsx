/** A round button of an action, with its key and state for everybody who cannot see it. */

import type { ComponentChildren, JSX } from "preact";
import { words } from "../i18n/words";
import type { Action } from "./actions";
import { Icon } from "./icons";
import type { Scene } from "./store";

export function ActionButton({
  action,
  scene,
  children,
}: {
  readonly action: Action;
  readonly scene: Scene;
  readonly children?: ComponentChildren;
}): JSX.Element | null {
  if (!action.available()) return null;
  const call = scene.meeting.call.value;
  const w = words.value;
  const label = action.label(w, call);
  const key = action.key?.toUpperCase();
  return (
    <button
      type="button"
      class={`round look-${action.look(call)}`}
      data-testid={action.id}
      aria-label={label}
      aria-pressed={action.pressed === null ? undefined : action.pressed(call)}
      aria-keyshortcuts={key}
      title={key === undefined ? label : `${label} (${w.shortcut(key)})`}
      onClick={() => action.run(scene)}
    >
      <Icon name={action.icon(call)} />
      {children}
    </button>
  );
}
