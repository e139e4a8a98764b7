"""What happens to the frames of a chained video: how far its colours drift from the first picture, and back."""

import cv2
import numpy as np


def colour_distance(frames: np.ndarray, picture: np.ndarray) -> float:
    """Mean distance, over frames, of the mean colour to the picture's, in 8-bit CIE Lab units (0 to 255).

    frames: uint8 RGB (T, H, W, 3); picture: uint8 RGB (H, W, 3).
    """
    means = _lab(frames).mean(axis=(1, 2))
    return float(np.linalg.norm(means - _lab(picture[None]).mean(axis=(1, 2)), axis=1).mean())


def match_colours(frames: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Frames with the mean and the standard deviation of the picture's colours (Reinhard et al. 2001), in CIE Lab.

    One map for all frames, so that nothing flickers. uint8 RGB (T, H, W, 3) -> the same.
    """
    lab, target = _lab(frames), _lab(picture[None])
    axes = (0, 1, 2)
    scale = target.std(axis=axes) / np.maximum(lab.std(axis=axes), 1e-3)
    lab = (lab - lab.mean(axis=axes)) * np.clip(scale, 0.5, 2) + target.mean(axis=axes)
    lab = np.rint(np.clip(lab, 0, 255)).astype(np.uint8)
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_LAB2RGB) for frame in lab])


def _lab(frames: np.ndarray) -> np.ndarray:
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2LAB) for frame in frames]).astype(np.float32)
