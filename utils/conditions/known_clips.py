"""Training samples with their conditions: those of a TextVideoDataset, or their cached latents, and what is beside."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from utils.cli import UserError
from utils.conditions.clip_conditions import ClipConditions, resized
from utils.data.errors import DataError
from utils.data.readable import DerivedClips
from utils.video.frame_windows import window

MEASURED = 512  # samples, for means and deviations


class KnownClips(DerivedClips):
    """Samples with "conditions" {name: tensor} and "present" {name: 1.0 or 0.0}, cut and mirrored as the clip is.

    clips: a TextVideoDataset, which must not mirror where that would make conditions wrong. samples: these, or
    LatentClips of them. Raises ValueError for one that may.
    """

    def __init__(self, clips, conditions: ClipConditions, samples=None):
        super().__init__(clips)
        self.conditions, self.samples = conditions, clips if samples is None else samples
        if clips.augments and clips.may_mirror and not conditions.may_mirror:
            raise ValueError("vectors may mean left and right: set may_mirror of the clips to False")
        if hasattr(self.samples, "collate"):
            self.collate = self.samples.collate

    def read(self, key: int | tuple[int, int]) -> dict:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        sample = self.samples.read(key)
        cached = getattr(self.samples, "windows", None)  # of cached latents the epochs take turns
        values, present = self.read_conditions(epoch % cached if cached and "latents" in sample else epoch, index)
        return {**sample, "conditions": values, "present": present}

    def read_conditions(self, epoch: int, index: int) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        clips, index = self.clips, int(index) % len(self)
        info, (height, width, _) = clips.items[index][0], clips.shapes[index]
        _, anchor, mirrored, _ = clips.choose(epoch, index)

        def place(maps: np.ndarray) -> np.ndarray:
            maps = placed(maps, height, width, clips.resize_mode, anchor)
            return maps[:, :, ::-1] if mirrored else maps

        values, present, _ = self.conditions.read(info, self.indices(epoch, index), place, mirrored)
        return {name: torch.from_numpy(value) for name, value in values.items()}, present

    def indices(self, epoch: int, index: int) -> np.ndarray:
        """The frames of the clip that a sample shows."""
        clips, position = self.clips, self.clips.choose(epoch, index)[0]
        info, frames = clips.items[index][0], clips.shapes[index].frames
        return window(info, frames, clips.target_fps, clips.short_clips, position)

    def measured(self) -> dict[str, dict]:
        """Names, means and deviations of the vectors, over clips spread evenly."""
        chosen = np.unique(np.linspace(0, len(self) - 1, min(MEASURED, len(self))).astype(int))
        read = (self.read_conditions(0, int(n)) for n in chosen)
        return self.conditions.statistics({"conditions": values, "present": present} for values, present in read)


def with_actions(parts: Sequence, folder: Path, name: str) -> list[KnownClips]:
    """Each TextVideoDataset of this folder with what was done in its clips: the vectors of this name, in all parts in
    the same order. They are not mirrored from here on, an action may mean left or right. Raises UserError for clips of
    which none has such numbers."""
    try:
        infos = [info for clips in parts for info, _ in clips.items]
        conditions = ClipConditions(folder, infos, vectors=[name])
    except DataError as error:
        raise UserError(str(error)) from None
    for clips in parts:
        clips.may_mirror = False
    return [KnownClips(clips, conditions) for clips in parts]


def placed(maps: np.ndarray, height: int, width: int, mode: str, anchor: tuple[float, float]) -> np.ndarray:
    """Maps (T, H, W, C) of a clip's own size at the size of training, as utils/video/frames.py resizes its frames: what
    "pad" adds is -1, black."""
    if mode == "stretch":
        return resized(maps, height, width)
    scale = (max if mode == "crop" else min)(height / maps.shape[1], width / maps.shape[2])
    maps = resized(maps, max(1, round(maps.shape[1] * scale)), max(1, round(maps.shape[2] * scale)))
    slack = np.subtract(maps.shape[1:3], (height, width))
    if mode == "crop":
        top, left = np.rint(slack * anchor).astype(int)
        return maps[:, top : top + height, left : left + width]
    top, left = np.rint(-slack * 0.5).astype(int)
    out = np.full((len(maps), height, width, maps.shape[3]), -1, np.float32)
    out[:, top : top + maps.shape[1], left : left + maps.shape[2]] = maps
    return out
