"""How much moves in a clip, and where that lies on Stable Video Diffusion's scale of motion buckets.

SVD (Blattmann et al. 2023, appendix) scores a clip by dense optical flow (Farneback 2003) at 2 frames/s on small frames
and averages its length over space and time. So does this, but a still background stays out of it (see parts.py):
one object before a still camera scores its share of the picture times its speed. How the scores became
`motion_bucket_id` (1 to 255, 127 by default) was never published; `to_buckets` offers three ways.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from utils.motion.parts import changes, window_flows

MOTION_MEASURE = 2  # scores of different measures do not compare; 1, before it was noted, was Farneback's flow alone
SHORT_SIDE = 128  # px; an object of a twelfth of the picture has 10
FAR_SECONDS, NEAR_SECONDS = 1 / 2, 1 / 8  # between the two frames of a pair
SEGMENTS = 4  # of FAR_SECONDS each, looked at together
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
        meter.add(frame)
    return meter


class MotionMeter:
    """`motion_score` of a clip that need not be in memory: `add` its num_frames frames in order, then ask for `score`,
    and whether it is `static`.

    It looks at eight frames a second, or all if there are fewer, and keeps the small ones of two seconds.
    """

    def __init__(self, num_frames: int, fps: float):
        self.near = max(1, min(round(NEAR_SECONDS * fps), num_frames - 1))  # frames
        self.per_second = fps / self.near
        self.segment = max(1, round(FAR_SECONDS * self.per_second))  # of those it looks at, as the next two
        self.window = SEGMENTS * self.segment
        self.last = (num_frames - 1) // self.near * self.near
        self.count, self.small, self.first, self.speeds, self.changed = 0, [], None, [], False

    def add(self, frame: np.ndarray) -> None:
        """The next frame, uint8 RGB (H, W, 3)."""
        if self.count % self.near == 0 and self.count <= self.last:
            self.small.append(small_frame(frame))
            self.first = self.small[0] if self.first is None else self.first
            if len(self.small) > self.window or (self.count == self.last and len(self.small) > 1):
                self._look(*window_flows(self.small, self.segment, self.per_second))
                self.small = self.small[-1:]
        self.count += 1

    def _look(self, flows: np.ndarray, changed: bool) -> None:
        """At the flow (n, h, w, 2) between the frames of a window, in px."""
        lengths = np.sqrt(flows[..., 0] ** 2 + flows[..., 1] ** 2).mean(axis=(1, 2)) / min(flows.shape[1:3])
        self.speeds += (lengths * self.per_second).tolist()
        self.changed |= changed

    def score(self) -> float:
        return float(np.mean(self.speeds)) if self.speeds else 0.0

    def static(self) -> bool:
        """Whether nothing changes beyond noise and the brightness of the whole, neither within half a second nor from
        the first frame to the last. Slow drift may so score 0 and yet be no static clip."""
        if not self.changed and self.count > 1:
            self.changed = changes(self.first, self.small[-1])
        return not self.changed


class _Histogram(MotionMeter):
    """A meter that counts how many pixels move so fast in this direction."""

    counts = 0

    def _look(self, flows: np.ndarray, changed: bool) -> None:
        flow = flows.reshape(-1, 2) / min(flows.shape[1:3]) * self.per_second
        speed = np.digitize(np.linalg.norm(flow, axis=1), SPEED_EDGES)  # 0: still
        angle = np.arctan2(flow[:, 1], flow[:, 0])  # right is 0, down is pi / 2
        direction = np.rint(angle / (2 * np.pi) * DIRECTIONS).astype(int) % DIRECTIONS
        found = np.where(speed, 1 + (speed - 1) * DIRECTIONS + direction, 0)
        self.counts = self.counts + np.bincount(found, minlength=1 + len(SPEED_EDGES) * DIRECTIONS)


def flow_histogram(frames: np.ndarray, fps: float) -> np.ndarray:
    """Share of pixels that move so fast in this direction: float (49,), sums to 1; still pixels first.

    frames: uint8 RGB (T, H, W, 3); fps: their rate in frames/s. Motion is what the score is made of. After the still
    ones come, for each range of speed between SPEED_EDGES (the last is open), 8 directions: right, down and right,
    down, ... A single frame is all still.
    """
    meter = _Histogram(len(frames), fps)
    for frame in frames:
        meter.add(frame)
    if not np.any(meter.counts):
        return np.eye(1, 1 + len(SPEED_EDGES) * DIRECTIONS)[0]
    return meter.counts / meter.counts.sum()


def small_frame(frame: np.ndarray) -> np.ndarray:
    """uint8 RGB (H, W, 3) -> uint8 YCrCb (h, w, 3) whose short side has 128 px; aspect ratios end at 8:1."""
    return cv2.cvtColor(_small(frame), cv2.COLOR_RGB2YCrCb)


def small_grey(frame: np.ndarray) -> np.ndarray:
    """uint8 RGB (H, W, 3) -> uint8 grey (h, w), as small, for a look at every frame: grey first, which is half the
    work, and bilinear down to half the size, which still sees every pixel and is six times as fast."""
    return _small(cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY), quickest=True)


def _small(frame: np.ndarray, quickest: bool = False) -> np.ndarray:
    scale = SHORT_SIDE / min(frame.shape[:2])
    height, width = (min(round(side * scale), 8 * SHORT_SIDE) for side in frame.shape[:2])
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    if quickest and 0.5 <= scale < 1:
        interpolation = cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(frame), (width, height), interpolation=interpolation)


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
