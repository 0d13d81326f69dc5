/** Which page is shown. */

import type { JSX } from "preact";
import { useRef } from "preact/hooks";
import { Left } from "./left";
import { Prejoin } from "./prejoin";
import { Room } from "./room";
import type { Scene } from "./store";
import { Toasts } from "./toasts";

export function MeetingPage({ scene }: { readonly scene: Scene }): JSX.Element {
  const call = scene.meeting.call.value;
  // Joining again happens in sight of the meeting; joining for the first time, of the preview.
  const wasIn = useRef(false);
  if (call.kind === "in") wasIn.current = true;
  if (call.kind === "idle" || call.kind === "left" || call.kind === "locked") wasIn.current = false;
  const inside = call.kind === "in" || wasIn.current;
  return (
    <>
      {call.kind === "left" ? <Left scene={scene} why={call.why} /> : inside ? <Room scene={scene} /> : <Prejoin scene={scene} />}
      {inside && <Toasts />}
    </>
  );
}
