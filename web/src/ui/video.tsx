/** Elements that play tracks. */

import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { soundBlocked } from "./store";

export interface VideoProps {
  readonly track: MediaStreamTrack | undefined;
  readonly mirrored: boolean;
  readonly id?: string;
  readonly label: string;
}

/** Shows nothing until there is a first frame, so that whatever lies behind is seen meanwhile. */
export function Video({ track, mirrored, id, label }: VideoProps): JSX.Element {
  const element = useRef<HTMLVideoElement>(null);
  const [playing, setPlaying] = useState(false);
  useEffect(() => {
    const video = element.current;
    if (video === null) return undefined;
    setPlaying(false);
    video.srcObject = track === undefined ? null : new MediaStream([track]);
    if (track !== undefined) video.play().catch(() => {}); // the next track interrupts it
    return () => {
      video.srcObject = null;
    };
  }, [track]);
  return (
    <video
      ref={element}
      id={id}
      class={`video ${mirrored ? "mirrored" : ""} ${playing ? "playing" : ""}`}
      autoplay
      playsInline
      muted
      aria-label={label}
      onPlaying={() => setPlaying(true)}
      onEmptied={() => setPlaying(false)}
    />
  );
}

export function Sound({
  track,
  source,
  endpoint,
}: {
  readonly track: MediaStreamTrack;
  readonly source: string;
  readonly endpoint: string;
}): JSX.Element {
  const element = useRef<HTMLAudioElement>(null);
  useEffect(() => {
    const audio = element.current;
    if (audio === null) return undefined;
    audio.srcObject = new MediaStream([track]);
    audio.play().catch((error: unknown) => {
      if (error instanceof DOMException && error.name === "NotAllowedError") soundBlocked.value = true;
    });
    return () => {
      audio.srcObject = null;
    };
  }, [track]);
  return <audio ref={element} autoplay data-source={source} data-endpoint={endpoint} />;
}

/** Called from a click, which is what the browser waited for. */
export function allowSound(): void {
  soundBlocked.value = false;
  for (const audio of document.querySelectorAll("audio")) audio.play().catch(() => (soundBlocked.value = true));
}
