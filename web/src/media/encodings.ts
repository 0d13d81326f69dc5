/** What a sender's encodings are: three of the camera, one of a screen; and which of them the bridge needs. */

/** Each encoding has half the lines of the next; rates in bit/s are those that stock clients use for VP8. */
const CAMERA = [
  { scaleResolutionDownBy: 4, maxBitrate: 200_000 },
  { scaleResolutionDownBy: 2, maxBitrate: 500_000 },
  { scaleResolutionDownBy: 1, maxBitrate: 1_500_000 },
] as const;
const CAMERA_ALONE_BPS = 1_500_000;
const SCREEN_BPS = 2_500_000;
const CAMERA_LINES = 720;

/** Sets rates and sizes, and switches off what is above `maxHeight` lines; 0 is everything, a negative number no limit. */
export async function shapeEncodings(sender: RTCRtpSender, shows: "camera" | "screen", maxHeight: number): Promise<void> {
  const parameters = sender.getParameters();
  const { encodings } = parameters;
  if (encodings.length === 0) return;
  const lines = sender.track?.getSettings().height ?? CAMERA_LINES;
  encodings.forEach((encoding, index) => {
    const layer = encodings.length === CAMERA.length && shows === "camera" ? CAMERA[index] : undefined;
    encoding.maxBitrate = layer?.maxBitrate ?? (shows === "camera" ? CAMERA_ALONE_BPS : SCREEN_BPS);
    if (layer !== undefined) encoding.scaleResolutionDownBy = layer.scaleResolutionDownBy;
    const height = lines / (layer?.scaleResolutionDownBy ?? 1);
    // The lowest stays unless nothing at all is wanted.
    encoding.active = maxHeight < 0 || (maxHeight > 0 && (index === 0 || height <= maxHeight));
  });
  if (shows === "screen") parameters.degradationPreference = "maintain-resolution";
  try {
    await sender.setParameters(parameters);
  } catch (error) {
    // A browser that does not know a parameter sends as it likes, which still is a picture.
    console.warn("encodings not set", error);
  }
}
