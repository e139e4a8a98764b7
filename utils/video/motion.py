"""How much moves in a clip, and where that lies on Stable Video Diffusion's scale of motion buckets.

SVD (Blattmann et al. 2023, appendix) scores a clip by dense optical flow (Farneback 2003) at 2 frames/s on small frames
and averages its length over space and time. So does this, but a still background stays out of it (see moving_parts.py):
one object before a still camera scores its share of the picture times its speed. How the scores became
`motion_bucket_id` (1 to 255, 127 by default) was never published; `to_buckets` offers three ways.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from utils.video.moving_parts import moving_parts

MOTION_MEASURE = 2  # scores of different measures do not compare; 1, before it was noted, was Farneback's flow alone
SHORT_SIDE = 128  # px; an object of a twelfth of the picture has 10
FAR_SECONDS, NEAR_SECONDS = 1 / 2, 1 / 8  # between the two frames of a pair
FAST = 0.12  # short sides per second, above which far pairs lose track
SPEED_EDGES = (0.01, 0.05, 0.1, 0.2, 0.4, 0.8)  # short sides per second, of flow_histogram; below the first: still
DIRECTIONS = 8
BUCKET_MODES = ("quantile", "zscore", "const")


def motion_score(frames: np.ndarray, fps: float) -> float:
    """Mean speed of the picture in short sides per second; it depends on neither resolution nor frame rate.

    frames: uint8 RGB (T, H, W, 3); fps: their rate in frames/s. 0 for fewer than two frames.
    """
    return motion_meter(frames, fps).score()


def is_static(frames: np.ndarray, fps: float) -> bool:
    """`MotionMeter.static` of a clip in memory, uint8 RGB (T, H, W, 3), fps of them a second."""
    return motion_meter(frames, fps).static()


def motion_meter(frames: np.ndarray, fps: float) -> "MotionMeter":
    """The meter after all frames, uint8 RGB (T, H, W, 3), fps of them a second."""
    meter = MotionMeter(len(frames), fps)
    for frame in frames:
        meter.add(small_grey(frame))
    return meter


class MotionMeter:
    """`motion_score` of a clip that need not be in memory: `add` its num_frames frames in order, then ask for `score`,
    and whether it is `static`.

    Frames are compared over half a second, as SVD does, or what the clip allows of it; where something moves fast, over
    an eighth of a second from the same frame.
    """

    def __init__(self, num_frames: int, fps: float):
        self.fps, self.count, self.speeds, self.changed = fps, 0, [], False
        self.far = max(1, min(round(FAR_SECONDS * fps), num_frames - 1))  # frames
        self.near = max(1, round(NEAR_SECONDS * fps))

    def add(self, grey: np.ndarray) -> None:
        """The next frame, from `small_grey`."""
        behind = self.count % self.far
        if self.count and not behind:
            self.speeds.append(float(self._speed(grey).mean()))
        if not self.count:
            self.first = grey
        if not behind:
            self.start, self.soon = grey, None
        elif behind == self.near:
            self.soon = self._moved(grey, self.near)
        self.last, self.count = grey, self.count + 1

    def _speed(self, grey: np.ndarray) -> np.ndarray:
        """Speed at each pixel of self.start (h, w), in short sides per second, half a second later."""
        if self.soon is not None and self.soon.any():
            whole = (self.soon > FAST / 2).mean() > 0.9  # the camera moves by pixels: no need of a longer look
            if whole or np.quantile(self.soon[self.soon > 0], 0.1) > FAST:
                return self.soon
        late = self._moved(grey, self.far)
        return late if self.soon is None else np.where(np.maximum(self.soon, late) > FAST, self.soon, late)

    def _moved(self, grey: np.ndarray, frames: int) -> np.ndarray:
        flow, changed = moving_parts(self.start, grey)
        self.changed |= changed
        return np.linalg.norm(flow, axis=-1) * self.fps / frames / min(grey.shape)

    def score(self) -> float:
        return float(np.mean(self.speeds)) if self.speeds else 0.0

    def static(self) -> bool:
        """Whether nothing changes beyond noise and the brightness of the whole, neither within half a second nor from
        the first frame to the last. Slow drift may so score 0 and yet be no static clip."""
        if not self.changed and self.count > 1:
            self.changed = moving_parts(self.first, self.last).changed
        return not self.changed


def flow_histogram(frames: np.ndarray, fps: float) -> np.ndarray:
    """Share of pixels that move so fast in this direction: float (49,), sums to 1; still pixels first.

    frames: uint8 RGB (T, H, W, 3); fps: their rate in frames/s. Motion is measured over an eighth of a second, or from
    frame to frame if those are further apart. After the still ones come, for each range of speed between SPEED_EDGES
    (the last is open), 8 directions: right, down and right, down, ... A single frame is all still.
    """
    step = max(1, min(round(NEAR_SECONDS * fps), len(frames) - 1))  # frames
    greys, counts = [small_grey(frame) for frame in frames], np.zeros(1 + len(SPEED_EDGES) * DIRECTIONS)
    for before, after in zip(greys, greys[step:], strict=False):
        flow = moving_parts(before, after).flow.reshape(-1, 2) / min(before.shape) * fps / step
        speed = np.digitize(np.linalg.norm(flow, axis=1), SPEED_EDGES)  # 0: still
        angle = np.arctan2(flow[:, 1], flow[:, 0])  # right is 0, down is pi / 2
        direction = np.rint(angle / (2 * np.pi) * DIRECTIONS).astype(int) % DIRECTIONS
        counts += np.bincount(np.where(speed, 1 + (speed - 1) * DIRECTIONS + direction, 0), minlength=len(counts))
    counts[0] += not counts.any()
    return counts / counts.sum()


def small_grey(frame: np.ndarray) -> np.ndarray:
    """uint8 RGB (H, W, 3) -> uint8 grey (h, w) whose short side has 128 px; aspect ratios end at 8:1."""
    scale = SHORT_SIDE / min(frame.shape[:2])
    height, width = (min(round(side * scale), 8 * SHORT_SIDE) for side in frame.shape[:2])
    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)  # first, which is half the work
    return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


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
