"""What makes a result of a task right, by classical computer vision."""

import numpy as np

from utils.evaluation.judge import find_object, judge
from utils.evaluation.scores import right
from utils.task_scores.truth import Truth

NEAR = 1 / 16  # of the frame: the mean distance from a path at which it is followed
KEPT = 30.0  # dB between a known picture and what the network made of it
FAR = 2.0  # radii from the object, where the background begins


def psnr(found: np.ndarray, truth: np.ndarray) -> float:
    """dB between 8-bit pictures."""
    error = np.square(found.astype(np.float64) - truth).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-4)))


def path_of(frames: np.ndarray) -> np.ndarray:
    """(T, 2), the object's centre in each frame as shares of it; NaN where there is none."""
    size = frames.shape[2], frames.shape[1]
    blobs = [find_object(frame) for frame in frames.astype(np.float32)]
    return np.array([np.divide(blob.centre, size) if blob else (np.nan, np.nan) for blob in blobs])


def distance(frames: np.ndarray, path: np.ndarray, axes: tuple[int, ...] = (0, 1)) -> float:
    """Mean distance of the object from a path (T, 2) in these axes, as a share of the frame; infinite without one."""
    away = (path_of(frames) - path)[:, axes]
    found = float(np.linalg.norm(away, axis=1).mean())
    return found if np.isfinite(found) else float("inf")


def follows(frames: np.ndarray, path: np.ndarray, axes: tuple[int, ...] = (0, 1)) -> bool:
    return distance(frames, path, axes) <= NEAR


def obeyed(frames: np.ndarray, asked: dict) -> dict[str, bool]:
    """What of the prompt is right, see scores.right."""
    hits = right(judge(frames), asked)
    return {name: hits[name] for name in ("colour", "shape", "direction", "all") if name in hits}


def seam(frames: np.ndarray, truth: np.ndarray, first: int) -> dict[str, float]:
    """Mean change from the last known frame to the first new one, in levels, and that of the truth there."""
    before, after = truth[first - 1].astype(np.float32), frames[first].astype(np.float32)
    return {
        "seam": float(np.abs(after - before).mean()),
        "seam_of_data": float(np.abs(truth[first].astype(np.float32) - before).mean()),
    }


def background_kept(frames: np.ndarray, truth: np.ndarray, about: Truth) -> bool:
    """Whether what is far from the object's true place is as it was."""
    y, x = np.mgrid[: frames.shape[1], : frames.shape[2]] + 0.5
    x, y = x / frames.shape[2], y / frames.shape[1]
    far = np.stack([np.hypot(x - cx, y - cy) > FAR * about.radius for cx, cy in about.path])
    return psnr(frames[far], truth[far]) >= KEPT
