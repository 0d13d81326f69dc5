/** One track out of the microphone's and a shared screen's sound: others know one voice of each person, as in Jitsi's clients. */

export class Mixer {
  #context: AudioContext | null = null;
  #out: MediaStreamAudioDestinationNode | null = null;
  readonly #inputs = new Map<MediaStreamTrack, MediaStreamAudioSourceNode>();

  /** The track to send: the microphone's own while there is nothing to mix it with. */
  mix(microphone: MediaStreamTrack | undefined, sound: MediaStreamTrack | null): MediaStreamTrack | undefined {
    if (sound === null) {
      this.#close();
      return microphone;
    }
    this.#context ??= new AudioContext();
    this.#out ??= this.#context.createMediaStreamDestination();
    // A page that was opened without a click starts it with the first one; sharing is one.
    if (this.#context.state === "suspended") void this.#context.resume().catch(() => {});
    const wanted = new Set(microphone === undefined ? [sound] : [microphone, sound]);
    for (const [track, node] of this.#inputs) {
      if (wanted.has(track)) continue;
      node.disconnect();
      this.#inputs.delete(track);
    }
    for (const track of wanted) {
      if (this.#inputs.has(track)) continue;
      const node = this.#context.createMediaStreamSource(new MediaStream([track]));
      node.connect(this.#out);
      this.#inputs.set(track, node);
    }
    return this.#out.stream.getAudioTracks()[0] ?? microphone;
  }

  #close(): void {
    if (this.#context === null) return;
    this.#inputs.clear();
    this.#out = null;
    void this.#context.close().catch(() => {});
    this.#context = null;
  }
}
