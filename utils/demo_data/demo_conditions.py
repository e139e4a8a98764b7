"""What is known of the demo's clips beside their captions: depth, motion and sound, all true by construction."""

import numpy as np

from utils.demo_data.shapes import coverage

FAR, BEHIND, IN_FRONT = 32, 150, 255  # grey levels of depth: the nearer, the lighter
RATE, LOWEST, OCTAVES = 16_000, 200.0, 3.0  # of the sound: samples and vibrations per second, from bottom to top
VOLUME = 0.3
MOTION = ("x", "y", "dx", "dy")


def depth_of(objects: list[dict], num_frames: int, size: int) -> np.ndarray:
    """uint8 (T, S, S, 3), grey: which object is in front, as `draw` of shapes.py covers one by the other."""
    frames = np.full((num_frames, size, size), FAR, np.float32)
    for n, thing in enumerate(objects, 1):
        level = IN_FRONT if n == len(objects) else BEHIND
        frames += coverage(thing["shape"], thing["radius"], thing["path"], size, size) * (level - frames)
    return np.round(frames).astype(np.uint8)[..., None].repeat(3, axis=-1)


def motion_of(objects: list[dict], fps: float, size: int) -> str:
    """CSV: where the first object is and how it moves to the next frame, as fractions of the frame, with the time."""
    path = np.asarray(objects[0]["path"]) / size
    steps = np.diff(path, axis=0)
    rows = np.concatenate([path, np.concatenate([steps, steps[-1:]])], axis=1)
    lines = [f"{n / fps:.4f}," + ",".join(f"{value:.5f}" for value in row) for n, row in enumerate(rows)]
    return "\n".join([",".join(("time", *MOTION)), *lines]) + "\n"


def sound_of(objects: list[dict], fps: float, size: int) -> np.ndarray:
    """A tone (N,) float32 in [-1, 1] at RATE, the higher the first object is; it lasts as long as the clip."""
    height = 1 - np.asarray(objects[0]["path"])[:, 1] / size
    samples = np.arange(round(len(height) / fps * RATE)) / RATE
    pitch = LOWEST * 2 ** (OCTAVES * np.interp(samples, np.arange(len(height)) / fps, height))
    return (VOLUME * np.sin(2 * np.pi * np.cumsum(pitch) / RATE)).astype(np.float32)
