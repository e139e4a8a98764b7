"""A policy that somebody has trained: asked with pictures and tasks, it answers with actions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME

from utils.cli import UserError
from utils.pretrained.small_model import load_small
from utils.video.frames import resize_frames

OTHER_RATE = 0.01


class TrainedPolicy:
    """The model that train_policy.py left in a run folder, or its model/. names, fps, chunk: of the actions that it
    answers with; folder, file: where it lies. Raises UserError for a folder without one."""

    def __init__(self, folder: Path):
        from models.robots.policy import Policy

        self.model, self.folder = load_small(Policy, folder, "policy", "train_policy.py")
        self.file, config = self.folder / SAFETENSORS_WEIGHTS_NAME, self.model.config
        self.names, self.fps, self.chunk, self.tasks = tuple(config.names), config.fps, config.chunk, list(config.tasks)

    def check(self, names: Sequence[str], fps: float, tasks: Sequence[str] = ()) -> None:
        """Raises UserError unless it acts with these numbers, at this rate, and has learnt these tasks."""
        for task in tasks:
            if task not in self.tasks:
                raise UserError(f"--policy: it has not learnt {task!r}, but {', '.join(map(repr, self.tasks))}")
        if self.names != tuple(names):
            raise UserError(f"--policy: it acts with {', '.join(self.names)}; the model obeys {', '.join(names)}")
        if abs(self.fps - fps) > OTHER_RATE * fps:
            raise UserError(f"--policy: it learnt from {self.fps:g} frames a second, the model draws {fps:g}")

    def act(self, tasks: Sequence[str], frames: np.ndarray) -> np.ndarray:
        """The next actions (B, chunk, D) in the units of the data, from what is seen now, uint8 (B, H, W, 3). tasks:
        that it has learnt, see check."""
        seen = torch.from_numpy(resize_frames(frames, *self.model.config.frame_size, "stretch"))
        places = torch.tensor([self.tasks.index(task) for task in tasks])
        return self.model.act(seen.permute(0, 3, 1, 2).float() / 127.5 - 1, places).numpy()
