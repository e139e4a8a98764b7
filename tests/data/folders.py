"""Data folders for tests: the demo's, and clips whose frames tell their number."""

from pathlib import Path

import numpy as np
import torch

import video_dataset
from utils.video.encode import write_video
from video_dataset import TextVideoDataset, main, parse_args

DEMO = ["--num_clips", "12", "--num_frames", "8", "--frame_size", "32"]
TREE = Path(video_dataset.__file__).parent


def demo(folder: Path, *flags: str) -> Path:
    main(parse_args(["--output_dir", str(folder), *DEMO, *flags]))
    return folder


def add_clip(
    folder: Path, name: str, frames: np.ndarray, caption: str | bytes | None = "a clip", fps: float = 8
) -> Path:
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    (folder / "captions").mkdir(exist_ok=True)
    path = folder / "videos" / f"{name}.mp4"
    write_video(path, frames, fps)
    if caption is not None:
        data = caption if isinstance(caption, bytes) else caption.encode()
        (folder / "captions" / f"{name}.txt").write_bytes(data)
    return path


def ramp(count: int, height: int = 32, width: int = 32) -> np.ndarray:
    """Frame n is uniformly of level 10 n, so a decoded frame tells its number."""
    levels = (10 * np.arange(count)).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def numbers(video: torch.Tensor) -> list[int]:
    """The frame numbers of a normalised ramp clip."""
    return ((video.mean(dim=(0, 2, 3)) + 1) * 12.75).round().int().tolist()


def load(folder, **settings) -> TextVideoDataset:
    return TextVideoDataset(folder, **{"num_frames": 8, "frame_size": 32} | settings)
