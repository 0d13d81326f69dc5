/** What went wrong with a device, in the few kinds that a person can do something about. */

import type { Trouble } from "../call/state";

/** `null` when nothing went wrong: the person closed the chooser. */
export function troubleOf(error: unknown, choosing: boolean): Trouble | null {
  const name = error instanceof Error || error instanceof DOMException ? error.name : "";
  switch (name) {
    case "NotAllowedError":
    case "PermissionDeniedError":
    case "SecurityError":
      return choosing ? null : "refused";
    case "AbortError":
      return choosing ? null : "failed";
    case "NotFoundError":
    case "DevicesNotFoundError":
      return "missing";
    case "NotReadableError":
    case "TrackStartError":
      return "busy";
    case "OverconstrainedError":
    case "ConstraintNotSatisfiedError":
      return "unsuitable";
    case "TypeError":
    case "NotSupportedError":
      // No `mediaDevices` at all: the page was not opened by https or from this machine.
      return "insecure";
    default:
      return "failed";
  }
}
