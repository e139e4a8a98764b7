"""How much moves in a clip, and where that lies on Stable Video Diffusion's scale of motion buckets.

SVD (Blattmann et al. 2023, appendix) scores a clip by dense optical flow (Farneback 2003) at 2 frames/s on small frames
and averages its length over space and time. How the scores became `motion_bucket_id` (1 to 255, 127 by default) was
never published; `to_buckets` offers three ways.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from utils.video_io import resize_frames

SHORT_SIDE = 64  # px; SVD took 16, where flow is noisy: a shift of 2 px read 1.73 there, 2.04 here
PAIR_SECONDS = 0.5
STATIC_SCORE = 0.002  # below it nothing moves
BUCKET_MODES = ("quantile", "zscore", "const")


def motion_score(frames: np.ndarray, fps: float) -> float:
    """Mean speed of the picture in short sides per second; it depends on neither resolution nor frame rate.

    frames: uint8 RGB (T, H, W, 3); fps: their rate in frames/s. 0 for fewer than two frames.
    """
    step = pair_step(len(frames), fps)
    return flow_speed([small_grey(frame) for frame in frames[::step]], step / fps)


def pair_step(num_frames: int, fps: float) -> int:
    """Frames between the two of a pair: as near to half a second as the clip allows, at least 1."""
    return max(1, min(round(PAIR_SECONDS * fps), num_frames - 1))


def small_grey(frame: np.ndarray) -> np.ndarray:
    """uint8 RGB (H, W, 3) -> uint8 grey (h, w) whose short side has 64 px; aspect ratios end at 8:1."""
    scale = SHORT_SIDE / min(frame.shape[:2])
    height, width = (min(round(side * scale), 8 * SHORT_SIDE) for side in frame.shape[:2])
    return cv2.cvtColor(resize_frames(frame[None], height, width, "stretch")[0], cv2.COLOR_RGB2GRAY)


def flow_speed(greys: Sequence[np.ndarray], seconds: float) -> float:
    """Mean length of the optical flow between neighbours in short sides per second.

    greys: frames from `small_grey`, `seconds` apart.
    """
    lengths = []
    for before, after in zip(greys, greys[1:], strict=False):
        flow = np.zeros((*before.shape, 2), np.float32)  # px
        if not np.array_equal(before, after):  # there Farneback still sees 0.005 px
            flow = cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 15, 3, 5, 1.2, 0)
        lengths.append(float(np.linalg.norm(flow, axis=-1).mean()))
    return float(np.mean(lengths)) / SHORT_SIDE / seconds if lengths else 0.0


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
