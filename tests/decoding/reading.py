"""Reading back what tests have written."""

from pathlib import Path

import numpy as np

from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.decoding.video_info import VideoInfo


def read_all(path: Path) -> tuple[VideoInfo, np.ndarray]:
    info = probe_video(path)
    return info, read_frames(info, range(info.frames))


def assert_looks_like(frames: np.ndarray, clip: np.ndarray, tolerance: float = 6) -> None:
    """The codec is lossy and 4:2:0, but the nearest frame of the clip must be the right one."""
    assert frames.shape == clip.shape
    distances = np.abs(frames[:, None].astype(float) - clip[None]).mean((2, 3, 4))
    assert distances.argmin(1).tolist() == list(range(len(clip)))
    assert distances.diagonal().max() < tolerance
