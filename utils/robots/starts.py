"""What generated episodes begin with: a real frame, and the actions that are to be taken from there."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.cli import UserError, printable
from utils.conditions.maps import ConditionError
from utils.conditions.vectors import Vectors, at_times, chosen_columns
from utils.data.clip_index import usable_clips
from utils.data.errors import DataError
from utils.data.find_clips import FolderFormat
from utils.decoding.read import read_frames
from utils.decoding.video_info import VideoInfo, scaled_width
from utils.lerobot.folder import LeRobotError, LeRobotFolder, episode_index, is_lerobot
from utils.video.frames import resize_frames

NO_EPISODE = -1
LASTING = 0.8  # of noise from one action to the next: what trembles hardly goes anywhere


class Start(NamedTuple):
    """source, source_frame: episode and frame that it begins with; frame: uint8 (height, width, 3); actions_of: the
    episode whose actions these are, or NO_EPISODE; actions: (T, D) float32 in the units of the data."""

    task: str
    source: int
    source_frame: int
    frame: np.ndarray
    actions_of: int
    actions: np.ndarray


class Starts:
    """Draws starts from a LeRobot dataset: for a model that draws height x width, and reads clips at target_fps.

    cameras: side by side, as it learnt them. action, names: the feature that holds actions, and its numbers. fps: of
    what is drawn. Raises UserError for a folder that is none, or has no such actions.
    """

    def __init__(
        self,
        root: Path,
        cameras: Sequence[str] | None,
        action: str,
        names: Sequence[str],
        height: int,
        width: int,
        target_fps: float | None = None,
        resize_mode: str = "crop",
    ):
        if not is_lerobot(root):
            raise UserError(f"--dataset: {printable(root)} is no LeRobot dataset: it has no meta/info.json")
        try:
            self.dataset = LeRobotFolder(root)
            self.cameras = self.dataset.chosen_cameras(cameras)
            items, _, _ = usable_clips(root, FolderFormat(cameras=cameras), 2, None, "skip", "empty", None)
            if action not in self.dataset.columns:
                raise UserError(f"--dataset: its episodes have no {action}, but {', '.join(self.dataset.columns)}")
            self.fps = target_fps or self.dataset.fps
            self.size, self.resize_mode = (height, width), resize_mode
            self.episodes: dict[int, tuple[VideoInfo, str, np.ndarray]] = {}
            for info, texts in items:
                index = episode_index(Path(info.path))
                values, seconds = self.dataset.numbers(self.dataset.episodes[index], action)
                vectors = chosen_columns(Vectors(self.dataset.names[action], values, seconds), list(names))
                times = np.arange(int(seconds[-1] * self.fps + 1e-6) + 1) / self.fps
                actions = at_times(vectors, times, info.frames / info.fps)
                self.episodes[index] = info, texts[0], actions
        except (DataError, LeRobotError, ConditionError) as error:
            raise UserError(f"--dataset: {printable(root)}: {error}") from None
        every = np.concatenate([actions for _, _, actions in self.episodes.values()])
        self.low, self.high, self.std = every.min(0), every.max(0), every.std(0)

    def draw(self, number: int, seed: int, num_frames: int, kind: str, noise: float, anywhere: bool) -> Start:
        """Start `number`: a function of (seed, number) alone. kind: "other", "noisy" or "own" actions, or "none", which
        are zeros; noise: of noisy ones, in deviations of the dataset's; they stay within what the dataset has. Raises
        UserError for episodes that are all shorter than num_frames."""
        rng = np.random.default_rng([seed, number, 0x57A7])
        if kind == "none":
            source = int(rng.choice(list(self.episodes)))
            info, task, own = self.episodes[source]
            first = int(rng.integers(len(own))) if anywhere else 0
            nothing = np.zeros((num_frames, own.shape[1]), np.float32)
            return Start(task, source, *self._frame(info, first), NO_EPISODE, nothing)
        long = [index for index, (_, _, actions) in self.episodes.items() if len(actions) >= num_frames]
        if not long:
            most = max(len(actions) for _, _, actions in self.episodes.values())
            raise UserError(f"--num_frames: got {num_frames}, the longest episode has {most} actions")
        if kind == "other" and len(self.episodes) == 1:
            raise UserError("--actions: other needs a second episode; use noisy, or own")
        source = int(rng.choice(list(self.episodes) if kind == "other" else long))
        others = [index for index in long if index != source] or long
        actions_of = int(rng.choice(others)) if kind == "other" else source
        info, task, own = self.episodes[source]
        last = len(own) - (1 if kind == "other" else num_frames)
        first = int(rng.integers(last + 1)) if anywhere else 0
        actions = self.episodes[actions_of][2]
        begin = first
        if kind == "other":
            begin = int(rng.integers(len(actions) - num_frames + 1)) if anywhere else 0
        actions = actions[begin : begin + num_frames]
        if kind == "noisy":
            push = np.zeros(actions.shape[1])
            pushes = np.empty_like(actions)
            for row in pushes:
                push = LASTING * push + (1 - LASTING**2) ** 0.5 * noise * self.std * rng.standard_normal(len(push))
                row[:] = push
            actions = np.clip(actions + pushes, self.low, self.high)
        return Start(task, source, *self._frame(info, first), actions_of, actions.astype(np.float32))

    def _frame(self, info: VideoInfo, number: int) -> tuple[int, np.ndarray]:
        """(its number in the video, as it is drawn from) of the frame at which action `number` is taken."""
        number = min(round(number / self.fps * info.fps), info.frames - 1)
        return number, resize_frames(read_frames(info, [number]), *self.size, self.resize_mode)[0]

    def by_camera(self, video: np.ndarray) -> dict[str, np.ndarray]:
        """What each camera shows of a video (T, height, width, 3): its part of the width, even as codecs want it."""
        info = next(iter(self.episodes.values()))[0]
        parts = info.beside or (info,)
        widths = np.array([scaled_width(part, info.height) for part in parts])
        ends = (np.cumsum(widths) / widths.sum() * self.size[1] / 2).round().astype(int) * 2
        edges = zip(self.cameras, [0, *ends[:-1]], [*ends[:-1], self.size[1]], strict=True)
        height = self.size[0] // 2 * 2
        return {camera: video[:, :height, left : right - (right - left) % 2] for camera, left, right in edges}
