/** What a sender's encodings are: three of the camera, one of a screen; and which of them the bridge needs. */

/** Each encoding of a camera has half the lines of the next. */
const CAMERA = [4, 2, 1] as const;
/**
 * Most bit/s by lines: what stock clients use for VP8, but that a thumbnail stays below 200 kbit/s with its headers and repairs. By lines
 * and not by place, because the second encoding of a small camera is somebody's thumbnail.
 */
const RATES = [
  { lines: 180, bps: 160_000 },
  { lines: 360, bps: 500_000 },
  { lines: 720, bps: 1_500_000 },
] as const;
const LARGE_BPS = 2_500_000;
const SCREEN_BPS = 2_500_000;
const CAMERA_LINES = 720;

/** Sets rates and sizes, and switches off what is above `maxHeight` lines; 0 is everything, a negative number no limit. */
export async function shapeEncodings(sender: RTCRtpSender, shows: "camera" | "screen", maxHeight: number): Promise<void> {
  const parameters = sender.getParameters();
  const { encodings } = parameters;
  if (encodings.length === 0) return;
  const lines = sender.track?.getSettings().height ?? CAMERA_LINES;
  encodings.forEach((encoding, index) => {
    const scale = encodings.length === CAMERA.length && shows === "camera" ? CAMERA[index] : undefined;
    if (scale !== undefined) encoding.scaleResolutionDownBy = scale;
    const height = lines / (scale ?? 1);
    encoding.maxBitrate = shows === "camera" ? rateOf(height) : SCREEN_BPS;
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

function rateOf(lines: number): number {
  return RATES.find((rate) => lines <= rate.lines)?.bps ?? LARGE_BPS;
}
