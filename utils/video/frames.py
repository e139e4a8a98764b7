"""Frames as arrays: their size, and the way from and to tensors."""

import math

import cv2
import numpy as np


def resize_frames(
    frames: np.ndarray, height: int, width: int, mode: str = "crop", anchor: tuple[float, float] = (0.5, 0.5)
) -> np.ndarray:
    """(T, H, W, 3) uint8 -> (T, height, width, 3) uint8.

    mode "crop" covers the target and cuts the rest, "pad" fits inside and adds black bars, "stretch" ignores the
    aspect ratio; `anchor` places the picture: the fraction (y, x) of the slack above and to the left of it.
    """
    if mode not in ("crop", "pad", "stretch"):
        raise ValueError(f'mode must be "crop", "pad" or "stretch", not {mode!r}')
    H, W, h, w = *frames.shape[1:3], height, width
    if mode != "stretch":
        scale = (max if mode == "crop" else min)(height / H, width / W)
        h, w = max(1, round(H * scale)), max(1, round(W * scale))
    top, left = round((height - h) * anchor[0]), round((width - w) * anchor[1])  # negative when cropping
    out = np.zeros((len(frames), height, width, 3), np.uint8)
    for target, frame in zip(out, frames, strict=True):
        if h < H or w < W:  # average what shrinks, then interpolate what grows
            frame = cv2.resize(frame, (min(w, W), min(h, H)), interpolation=cv2.INTER_AREA)
        if h > H or w > W:
            frame = cv2.resize(frame, (w, h), interpolation=cv2.INTER_CUBIC)
        frame = frame[max(0, -top) :, max(0, -left) :][:height, :width]
        target[max(0, top) :, max(0, left) :][: frame.shape[0], : frame.shape[1]] = frame
    return out


def to_uint8(video) -> np.ndarray:
    """Tensor or array (3, T, H, W) in [-1, 1] -> uint8 (T, H, W, 3), rounded and clipped. Raises ValueError on NaN."""
    if hasattr(video, "detach"):
        video = video.detach().float().cpu().numpy()
    video = np.asarray(video, np.float32).transpose(1, 2, 3, 0)
    if np.isnan(video).any():
        raise ValueError("the video contains NaN")
    return np.rint(np.clip((video + 1) * 127.5, 0, 255)).astype(np.uint8)


def checked_frames(frames: np.ndarray, fps: float = 1.0) -> np.ndarray:
    frames = np.ascontiguousarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError(f"frames must be uint8 (T, H, W, 3), not {frames.dtype} {frames.shape}")
    if not 0 < fps < math.inf:
        raise ValueError(f"fps must be positive, not {fps}")
    return frames
