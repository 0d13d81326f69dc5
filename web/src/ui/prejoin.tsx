/** Before joining: who one is, what the camera shows, what does not work and why. */

import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Call, Device } from "../call/state";
import { words } from "../i18n/words";
import type { Choice } from "../media/devices";
import { NAME_MAX } from "../wire/presence";
import { cameraAction, microphoneAction } from "./actions";
import { Avatar } from "./avatar";
import { ActionButton } from "./button";
import { Icon, Mark } from "./icons";
import { remember } from "./memory";
import type { Scene } from "./store";
import { Video } from "./video";

export function Prejoin({ scene }: { readonly scene: Scene }): JSX.Element {
  const w = words.value;
  const { meeting } = scene;
  const call = meeting.call.value;
  const [name, setName] = useState(call.name);
  const locked = call.kind === "locked";
  const [password, setPassword] = useState("");
  const busy = call.kind !== "idle" && !locked;
  const join = (event: Event): void => {
    event.preventDefault();
    if (busy) return;
    remember({ name: name.trim() });
    meeting.dispatch(locked ? { kind: "unlock", password } : { kind: "join", name });
  };
  return (
    <main class="prejoin" data-testid="prejoin">
      <Preview scene={scene} name={name} />
      <form class="card" onSubmit={join}>
        <a class="home" href={scene.address.base} aria-label={w.home}>
          <Mark />
        </a>
        <h1>{scene.title}</h1>
        {(locked || call.password !== "") && <Password value={password} set={setPassword} wrong={locked && call.wrong} />}
        {!locked && <label>
          <span>{w.nameLabel}</span>
          <input
            data-testid="name-input"
            name="name"
            autocomplete="name"
            maxLength={NAME_MAX}
            placeholder={w.namePlaceholder}
            value={name}
            onInput={(event) => setName(event.currentTarget.value)}
          />
        </label>}
        <Chooser scene={scene} device="microphone" />
        <Chooser scene={scene} device="camera" />
        <Troubles call={call} />
        <button type="submit" class="button primary" data-testid="join" disabled={busy}>
          {busy && <span class="spinner" aria-hidden="true" />}
          {busy ? (call.kind === "asking" && call.asked > 1 ? w.waiting : w.joining) : w.join}
        </button>
      </form>
    </main>
  );
}

/** Asked for when the room wants it, and until it has let us in. */
function Password({
  value,
  set,
  wrong,
}: {
  readonly value: string;
  readonly set: (password: string) => void;
  readonly wrong: boolean;
}): JSX.Element {
  const w = words.value;
  const element = useRef<HTMLInputElement>(null);
  useEffect(() => element.current?.focus(), []);
  useEffect(() => {
    if (wrong) element.current?.select();
  }, [wrong]);
  return (
    <>
      <p class="lead" id="password-lead">
        {w.passwordLead}
      </p>
      <label>
        <span>{w.passwordLabel}</span>
        <input
          ref={element}
          type="password"
          data-testid="password"
          autocomplete="off"
          value={value}
          aria-invalid={wrong}
          aria-describedby={wrong ? "password-problem" : "password-lead"}
          onInput={(event) => set(event.currentTarget.value)}
        />
      </label>
      {wrong && (
        <p class="problem" id="password-problem" role="alert" data-testid="password-wrong">
          {w.passwordWrong}
        </p>
      )}
    </>
  );
}

function Preview({ scene, name }: { readonly scene: Scene; readonly name: string }): JSX.Element {
  const w = words.value;
  const call = scene.meeting.call.value;
  const camera = call.devices.camera.kind;
  const track = scene.devices.tracks.value.get("camera");
  return (
    <section class="preview" aria-label={w.camera}>
      <Avatar name={name.trim()} seed={scene.title} />
      {camera === "on" && <Video track={track} mirrored id="prejoinVideo" label={w.camera} />}
      {camera !== "on" && <p class="preview-hint">{camera === "starting" ? w.starting : w.cameraOff}</p>}
      <div class="preview-buttons">
        <ActionButton action={microphoneAction} scene={scene} />
        <ActionButton action={cameraAction} scene={scene} />
      </div>
      {call.devices.microphone.kind === "on" && <LevelBar read={() => scene.meeting.microphoneLevel()} />}
    </section>
  );
}

/** How loud the microphone is, drawn without laying anything out. */
function LevelBar({ read }: { readonly read: () => number }): JSX.Element {
  const element = useRef<HTMLSpanElement>(null);
  useEffect(() => {
    let frame = requestAnimationFrame(function draw() {
      const level = Math.min(1, Math.sqrt(read()) * 1.6);
      if (element.current !== null) element.current.style.transform = `scaleX(${level.toFixed(3)})`;
      frame = requestAnimationFrame(draw);
    });
    return () => cancelAnimationFrame(frame);
  }, []);
  return (
    <span class="level" aria-hidden="true">
      <span ref={element} />
    </span>
  );
}

/** Shown where there is something to choose. */
function Chooser({ scene, device }: { readonly scene: Scene; readonly device: "microphone" | "camera" }): JSX.Element | null {
  const w = words.value;
  const { devices } = scene;
  const choices = devices.choices.value[device];
  if (choices.length < 2) return null;
  const chosen = devices.tracks.value.get(device)?.getSettings().deviceId ?? devices.preferred.value[device] ?? "";
  const choose = (id: string): void => {
    devices.choose(device, id);
    remember(device === "microphone" ? { microphoneId: id } : { cameraId: id });
  };
  return (
    <label>
      <span>{w[device]}</span>
      <select data-testid={`choose-${device}`} value={chosen} onChange={(event) => choose(event.currentTarget.value)}>
        {choices.map((choice: Choice, index) => (
          <option key={choice.id} value={choice.id}>
            {choice.label || `${w[device]} ${index + 1}`}
          </option>
        ))}
      </select>
    </label>
  );
}

function Troubles({ call }: { readonly call: Call }): JSX.Element | null {
  const w = words.value;
  const found = (["microphone", "camera"] as const satisfies readonly Device[]).flatMap((device) => {
    const state = call.devices[device];
    return state.kind === "trouble" ? [{ device, text: w.trouble[device][state.trouble] }] : [];
  });
  if (found.length === 0) return null;
  return (
    <ul class="troubles" data-testid="troubles" role="status">
      {found.map(({ device, text }) => (
        <li key={device} data-device={device}>
          <Icon name={device === "microphone" ? "microphoneOff" : "cameraOff"} />
          <span>{text}</span>
        </li>
      ))}
    </ul>
  );
}
