/** The page's icons: strokes on a 24-unit square, in the colour of the text around them. */

import type { JSX } from "preact";

const PATHS = {
  microphone: "M12 3a3 3 0 0 1 3 3v5a3 3 0 0 1-6 0V6a3 3 0 0 1 3-3ZM5.5 11a6.5 6.5 0 0 0 13 0M12 17.5V21M8.5 21h7",
  microphoneOff:
    "M9 9.2V11a3 3 0 0 0 4.8 2.4M15 10.5V6a3 3 0 0 0-5.7-1.3M5.5 11a6.5 6.5 0 0 0 10.3 5.3M18.5 11a6.5 6.5 0 0 1-.6 2.7M12 17.5V21M8.5 21h7M4 3.5l16.5 17",
  camera: "M4.5 6.5h9a2 2 0 0 1 2 2v7a2 2 0 0 1-2 2h-9a2 2 0 0 1-2-2v-7a2 2 0 0 1 2-2ZM15.5 11l6-3.5v9l-6-3.5",
  cameraOff:
    "M10 6.5h3.5a2 2 0 0 1 2 2v3M15.5 15.6a2 2 0 0 1-2 1.9h-9a2 2 0 0 1-2-2v-7a2 2 0 0 1 2-2h1.4M15.5 11l6-3.5v9l-4.4-2.6M4 3.5l16.5 17",
  screen:
    "M4 4.5h16a1.5 1.5 0 0 1 1.5 1.5v9.5A1.5 1.5 0 0 1 20 17H4a1.5 1.5 0 0 1-1.5-1.5V6A1.5 1.5 0 0 1 4 4.5ZM8 20.5h8M12 13.5v-6M9 10l3-3 3 3",
  screenOff:
    "M4 4.5h16a1.5 1.5 0 0 1 1.5 1.5v9.5A1.5 1.5 0 0 1 20 17H4a1.5 1.5 0 0 1-1.5-1.5V6A1.5 1.5 0 0 1 4 4.5ZM8 20.5h8M9.5 8.2l5 5M14.5 8.2l-5 5",
  chat: "M4.5 4.5h15a2 2 0 0 1 2 2v8a2 2 0 0 1-2 2h-8L6.5 20v-3.5h-2a2 2 0 0 1-2-2v-8a2 2 0 0 1 2-2ZM7.5 9h9M7.5 12.3h6",
  leave: "M14 4.5H6a1.5 1.5 0 0 0-1.5 1.5v12A1.5 1.5 0 0 0 6 19.5h8M10 12h11M17.5 8.5 21 12l-3.5 3.5",
  send: "M4 12 20 4.5 15.5 20l-4-6.5L4 12ZM11.5 13.5 20 4.5",
  link: "M10 14a4 4 0 0 0 5.7 0l3.1-3.1a4 4 0 1 0-5.7-5.7L12 6.3M14 10a4 4 0 0 0-5.7 0l-3.1 3.1a4 4 0 1 0 5.7 5.7L12 17.7",
  check: "M5 12.5l4.5 4.5L19 7.5",
  close: "M6 6l12 12M18 6L6 18",
  again: "M20 12a8 8 0 1 1-2.4-5.7M20 4v4.5h-4.5",
  enlarge: "M14 4.5h5.5V10M10 19.5H4.5V14M19.5 4.5l-6 6M4.5 19.5l6-6",
  shrink: "M19.5 10H14V4.5M4.5 14H10v5.5M14 10l6-6M10 14l-6 6",
  alert: "M12 4 21.5 20h-19L12 4ZM12 10v4.5M12 17.3v.2",
  people:
    "M9 11.5a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7ZM2.5 19.5a6.5 6.5 0 0 1 13 0M16 5a3.3 3.3 0 0 1 0 6.2M18 14.2a6 6 0 0 1 3.5 5.3",
  person: "M12 12.5a4 4 0 1 0 0-8 4 4 0 0 0 0 8ZM4.5 20a7.5 7.5 0 0 1 15 0",
  sound: "M4 9.5v5h3.5L12 18.5v-13L7.5 9.5H4ZM15.5 9a4 4 0 0 1 0 6M18 6.5a7.5 7.5 0 0 1 0 11",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { readonly name: IconName }): JSX.Element {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}

/** Three people around a table. */
export function Mark(): JSX.Element {
  return (
    <svg class="mark" viewBox="0 0 32 32" aria-hidden="true" focusable="false">
      <circle class="mark-a" cx="11" cy="12" r="8" />
      <circle class="mark-b" cx="21" cy="12" r="8" />
      <circle class="mark-c" cx="16" cy="20.5" r="8" />
    </svg>
  );
}
