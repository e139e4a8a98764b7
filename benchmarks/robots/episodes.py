"""Recorded episodes in memory: frames beside states and actions, whole or a window of each."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.cli import UserError
from utils.data.clip_index import usable_clips
from utils.data.find_clips import FolderFormat
from utils.decoding.read import read_frames
from utils.lerobot.folder import LeRobotFolder, episode_index


class Window(NamedTuple):
    """frames: uint8 (T, H, W, 3); states (T, 4), actions (T, 4) float32, see benchmarks/robots/simulator.py."""

    task: str
    frames: np.ndarray
    states: np.ndarray
    actions: np.ndarray


def episodes(root: Path, min_frames: int = 1) -> Iterator[Window]:
    """The whole episodes of a dataset that are at least so long, in order."""
    dataset = LeRobotFolder(root)
    items, _, _ = usable_clips(root, FolderFormat(), min_frames, None, "skip", "error", None)
    for info, texts in items:
        episode = dataset.episodes[episode_index(Path(info.path))]
        numbers = [dataset.numbers(episode, name)[0] for name in ("state", "action")]
        yield Window(texts[0], read_frames(info, range(info.frames)), *numbers)


def check_rate(model, root: Path) -> None:
    """Raises UserError where a world model draws at another rate than a dataset has: frames would not be alike."""
    fps = LeRobotFolder(root).fps
    if model.target_fps is not None and abs(model.target_fps - fps) > 0.01 * fps:
        raise UserError(f"--held_out: it has {fps:g} frames a second, the model draws {model.target_fps:g}")


def windows(root: Path, length: int, count: int, seed: int = 0) -> list[Window]:
    """`length` frames from anywhere in each of so many episodes, spread over the dataset."""
    rng, found = np.random.default_rng(seed), list(episodes(root, length))
    chosen = np.unique(np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int))
    parts = []
    for each in (found[n] for n in chosen):
        start = int(rng.integers(len(each.frames) - length + 1))
        place = slice(start, start + length)
        parts.append(Window(each.task, each.frames[place], each.states[place], each.actions[place]))
    return parts
