"""What is read from drawn videos: the actions that they show, and how sure that is; the robot's state; or whether the
task is done."""

from pathlib import Path

import numpy as np
import torch

from utils.cli import UserError
from utils.pretrained.small_model import load_small
from utils.video.frames import resize_frames

OTHER_RATE = 0.01
DONE = 0.5  # believed of a frame, where nothing else is asked for
LASTING = 3  # frames for which a task stays done


class Reader:
    """The model that train_inverse_dynamics.py left in a run folder, or its model/, to read videos with.

    fps: of the videos. flag: names the folder. Raises UserError for a folder without one, and for one that has learnt
    at another rate.
    """

    def __init__(self, folder: Path, fps: float, flag: str):
        from models.robots.inverse_dynamics import InverseDynamics

        self.model, _ = load_small(InverseDynamics, folder, flag, "train_inverse_dynamics.py")
        if abs(self.model.config.fps - fps) > OTHER_RATE * fps:
            raise UserError(f"--{flag}: it learnt from {self.model.config.fps:g} frames a second, these have {fps:g}")

    def read(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(numbers (T, D) in the units of the data, what is believed of their error in its deviations (T,)) of a video,
        uint8 (T, H, W, 3); behind the last frame nothing is seen, so the last row is the one before again."""
        frames = resize_frames(video, *self.model.config.frame_size, "stretch")
        clip = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        actions, deviations = (each[0].numpy() for each in self.model.read(clip))
        again = [*range(len(actions)), len(actions) - 1]
        return actions[again].astype(np.float32), deviations.mean(1)[again].astype(np.float32)


class Labels(Reader):
    """Reads actions. names: of those that the videos were asked to show; raises UserError if it has learnt others."""

    def __init__(self, folder: Path, names: tuple[str, ...], fps: float):
        super().__init__(folder, fps, "inverse_dynamics")
        if (learnt := tuple(self.model.config.names)) != names:
            raise UserError(f"--inverse_dynamics: it reads {', '.join(learnt)}; the model obeys {', '.join(names)}")


class StateReader(Reader):
    """Reads where the robot is. names: of the numbers of the real dataset's observation.state; raises UserError if it
    has learnt others."""

    def __init__(self, folder: Path, names: tuple[str, ...], fps: float):
        super().__init__(folder, fps, "state")
        if (learnt := tuple(self.model.config.names)) != names:
            has = f"--dataset has {', '.join(names)}" if names else "--dataset has no observation.state"
            raise UserError(f"--state: it reads {', '.join(learnt)}; {has}")
        self.names = names


class SuccessReader(Reader):
    """Reads whether a task is done: a model that has learnt one number, 0 or 1 at each frame of real episodes. Raises
    UserError for one that has learnt more than one."""

    def __init__(self, folder: Path, fps: float):
        super().__init__(folder, fps, "success")
        if len(learnt := self.model.config.names) != 1:
            raise UserError(f"--success: it reads {', '.join(learnt)}; one number, 0 or 1, says that a task is done")

    def says_done(self, video: np.ndarray, sure: float = DONE) -> bool:
        """Whether it believes so at some frame."""
        return bool(self.done(video).max() >= sure)

    def done(self, video: np.ndarray) -> np.ndarray:
        """What it believes at each frame of a video (T, H, W, 3), (T,) from 0 to 1: of the LASTING frames from there on
        the least, so that no single frame decides."""
        believed = self.read(video)[0][:, 0].clip(0, 1)
        padded = np.append(believed, [believed[-1]] * (LASTING - 1))
        return np.lib.stride_tricks.sliding_window_view(padded, LASTING).min(axis=1)
