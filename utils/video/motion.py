"""How much moves in a clip, and where that lies on Stable Video Diffusion's scale of motion buckets.

SVD (Blattmann et al. 2023, appendix) scores a clip by dense optical flow (Farneback 2003) at 2 frames/s on small frames
and averages its length over space and time. How the scores became `motion_bucket_id` (1 to 255, 127 by default) was
never published; `to_buckets` offers three ways.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from utils.video.frames import resize_frames

SHORT_SIDE = 64  # px; SVD took 16, where flow is noisy: a shift of 2 px read 1.73 there, 2.04 here
FAR_SECONDS, NEAR_SECONDS = 1 / 2, 1 / 8  # between the two frames of a pair
FAST = 0.25  # short sides per second, above which far pairs lose track: at 0.4 they read 0.1 to 0.3
STATIC_SCORE = 0.002  # below it nothing moves
SPEED_EDGES = (0.01, 0.05, 0.1, 0.2, 0.4, 0.8)  # short sides per second, of flow_histogram; below the first: still
DIRECTIONS = 8
BUCKET_MODES = ("quantile", "zscore", "const")


def motion_score(frames: np.ndarray, fps: float) -> float:
    """Mean speed of the picture in short sides per second; it depends on neither resolution nor frame rate.

    frames: uint8 RGB (T, H, W, 3); fps: their rate in frames/s. 0 for fewer than two frames.
    """
    meter = MotionMeter(len(frames), fps)
    for frame in frames:
        meter.add(small_grey(frame))
    return meter.score()


class MotionMeter:
    """`motion_score` of a clip that need not be in memory: `add` its num_frames frames in order, then ask for `score`.

    Frames are compared over half a second, as SVD does, or what the clip allows of it; where something moves fast, over
    an eighth of a second from the same frame.
    """

    def __init__(self, num_frames: int, fps: float):
        self.fps, self.count, self.speeds = fps, 0, []
        self.far = max(1, min(round(FAR_SECONDS * fps), num_frames - 1))  # frames
        self.near = max(1, round(NEAR_SECONDS * fps))

    def add(self, grey: np.ndarray) -> None:
        """The next frame, from `small_grey`."""
        behind = self.count % self.far
        if self.count and not behind:
            far = _speed(self.start, grey, self.far / self.fps)
            self.speeds.append(float(np.where(self.fast > FAST, self.fast, far).mean()))
        if not behind:
            self.start, self.fast = grey, np.zeros_like(grey)
        elif behind == self.near:
            self.fast = _speed(self.start, grey, self.near / self.fps)
        self.count += 1

    def score(self) -> float:
        return float(np.mean(self.speeds)) if self.speeds else 0.0


def flow_histogram(frames: np.ndarray, fps: float) -> np.ndarray:
    """Share of pixels that move so fast in this direction: float (49,), sums to 1; still pixels first.

    frames: uint8 RGB (T, H, W, 3); fps: their rate in frames/s. Flow is measured over an eighth of a second, or from
    frame to frame if those are further apart. After the still ones come, for each range of speed between SPEED_EDGES
    (the last is open), 8 directions: right, down and right, down, ... A single frame is all still.
    """
    step = max(1, min(round(NEAR_SECONDS * fps), len(frames) - 1))  # frames
    greys, counts = [small_grey(frame) for frame in frames], np.zeros(1 + len(SPEED_EDGES) * DIRECTIONS)
    for before, after in zip(greys, greys[step:], strict=False):
        flow = _flow(before, after, step / fps).reshape(-1, 2)
        speed = np.digitize(np.linalg.norm(flow, axis=1), SPEED_EDGES)  # 0: still
        angle = np.arctan2(flow[:, 1], flow[:, 0])  # right is 0, down is pi / 2
        direction = np.rint(angle / (2 * np.pi) * DIRECTIONS).astype(int) % DIRECTIONS
        counts += np.bincount(np.where(speed, 1 + (speed - 1) * DIRECTIONS + direction, 0), minlength=len(counts))
    counts[0] += not counts.any()
    return counts / counts.sum()


def _flow(before: np.ndarray, after: np.ndarray, seconds: float) -> np.ndarray:
    """Optical flow (h, w, 2), to the right and down, in short sides per second."""
    if np.array_equal(before, after):  # there Farneback still sees 0.005 px
        return np.zeros((*before.shape, 2))
    flow = cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 15, 3, 5, 1.2, 0)  # (h, w, 2) in px
    return flow / SHORT_SIDE / seconds


def _speed(before: np.ndarray, after: np.ndarray, seconds: float) -> np.ndarray:
    """Length of the optical flow at each pixel (h, w), in short sides per second."""
    return np.linalg.norm(_flow(before, after, seconds), axis=-1)


def small_grey(frame: np.ndarray) -> np.ndarray:
    """uint8 RGB (H, W, 3) -> uint8 grey (h, w) whose short side has 64 px; aspect ratios end at 8:1."""
    scale = SHORT_SIDE / min(frame.shape[:2])
    height, width = (min(round(side * scale), 8 * SHORT_SIDE) for side in frame.shape[:2])
    return cv2.cvtColor(resize_frames(frame[None], height, width, "stretch")[0], cv2.COLOR_RGB2GRAY)


def to_buckets(scores: Sequence[float], mode: str = "quantile", reference: Sequence[float] | None = None) -> list[int]:
    """`motion_bucket_id`, 1 to 255, of each score among the scores of the dataset, `reference` (default: themselves).

    "quantile": 1 + 254 * the share of the dataset that moves no more; uses the whole range, however little the clips
    differ. "zscore": 127 + 40 standard deviations. "const": 127 for all.
    """
    scores = np.asarray(scores, float)
    dataset = scores if reference is None else np.asarray(reference, float)
    if mode == "quantile":
        buckets = 1 + 254 * np.searchsorted(np.sort(dataset), scores, side="right") / max(1, len(dataset))
    elif mode == "zscore":
        spread = dataset.std() if len(dataset) else 0.0
        buckets = 127 + 40 * (scores - dataset.mean()) / spread if spread > 0 else np.full(len(scores), 127.0)
    elif mode == "const":
        buckets = np.full(len(scores), 127.0)
    else:
        raise ValueError(f"mode must be one of {', '.join(BUCKET_MODES)}, not {mode!r}")
    return np.clip(np.rint(buckets), 1, 255).astype(int).tolist()
