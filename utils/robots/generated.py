"""Datasets of generated episodes: each row says that it is generated, and how; and so does the card."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from utils.cli import UserError, printable
from utils.lerobot.folder import LeRobotError
from utils.lerobot.origin import origin_of, said_of
from utils.lerobot.writer import LeRobotWriter
from utils.robots.starts import NO_EPISODE, Start, Starts

FAR = 4.0  # deviations from the mean
ONE = {"shape": [1], "names": None}
STATE = "observation.state"
# Beside frames, actions and states. None begins with "action" or "observation": a policy would learn from it.
ABOUT = {
    "generated": {"dtype": "bool", **ONE},
    "generated.checkpoint": {"dtype": "string", **ONE},
    "generated.seed": {"dtype": "int64", **ONE},
    "generated.source_episode": {"dtype": "int64", **ONE},
    "generated.source_frame": {"dtype": "int64", **ONE},
    "generated.actions_of": {"dtype": "int64", **ONE},
}


class GeneratedEpisodes:
    """A dataset in `root` that goes on where it stopped. world: a WorldModel or SvdWorld; how: the flags that decide
    what is drawn. read, asked, judged, state: see features. Raises UserError for a folder that holds something else, or
    episodes of other settings."""

    def __init__(
        self,
        root: Path,
        starts: Starts,
        world,
        how: dict,
        *,
        read: bool,
        asked: bool,
        judged: bool,
        state: tuple[str, ...] = (),
    ):
        self.root = root
        about = {"file": printable(f"{world.file.parent.name}/{world.file.name}"), "sha256": world.sha256}
        about["step"] = world.step
        self.checkpoint = f"{world.file.parent.name}, {world.sha256[:16]}"
        kinds = features(starts, world.names, read, asked, judged, state)
        robot, readme = origin_of(starts.dataset.root).get("robot"), card(starts, about, json.dumps(how))
        self.starts, self.about, self.far = starts, world.settings.vectors[world.action], {}
        with self._refused():
            self.writer = LeRobotWriter(root, starts.fps, kinds, robot, card=readme)
            self.writer.made_with({**how, **about, "dataset": str(starts.dataset.root.resolve())})

    @contextmanager
    def _refused(self) -> Iterator[None]:
        try:
            yield
        except LeRobotError as error:
            raise UserError(f"--output_dir: {printable(self.root)} {error}") from None

    def left(self, count: int, batch_size: int) -> Iterator[list[int]]:
        """The numbers, of `count`, of episodes that are still to be drawn, batch by batch, under a bar."""
        with self._refused():
            left = [n for n in range(count) if n not in self.writer.staged() | self.writer.skipped()]
        with tqdm(total=count, initial=count - len(left), unit="episode", disable=None) as bar:
            for numbers in (left[n : n + batch_size] for n in range(0, len(left), batch_size)):
                yield numbers
                bar.update(len(numbers))

    def told(self, actions: np.ndarray) -> None:
        """Remember, of actions (B, T, D) that the model was told of, what is unlike all that it has learnt from."""
        mean, std = (np.array(self.about[name]) for name in ("mean", "std"))
        off = np.abs((actions - mean) / np.maximum(std, 1e-6)).max(axis=(0, 1))
        far = {name: float(each) for name, each in zip(self.about["names"], off, strict=True) if each > FAR}
        self.far |= {name: max(each, self.far.get(name, 0.0)) for name, each in far.items()}

    def add(self, number: int, start: Start, video: np.ndarray, seed: int, **read) -> None:
        """An episode, uint8 (T, height, width, 3). read: see columns."""
        with self._refused():
            about = columns(start, self.checkpoint, seed, **read)
            self.writer.add(number, start.task or " ", about, self.starts.by_camera(video))

    def skip(self, number: int) -> None:
        with self._refused():
            self.writer.skip(number)

    def finish(self) -> tuple[int, int]:
        """(episodes that are there, episodes that were left out). Says which actions were unlike what was learnt."""
        if self.far:
            far = ", ".join(f"{name} by {each:.1f}" for name, each in self.far.items())
            said = "further from the mean than the model can have learnt, what it shows then is a guess"
            print(f"warning: actions were off, in deviations of its data, {far}: {said}", file=sys.stderr)
        with self._refused():
            skipped = len(self.writer.skipped())
            return self.writer.finish(), skipped


def features(
    starts: Starts, names: tuple[str, ...], read: bool, asked: bool, judged: bool, state: tuple[str, ...]
) -> dict[str, dict]:
    """For a LeRobotWriter. names: of the numbers of an action. read: whether they are read from the videos, too; asked:
    whether the model was told of any; judged: whether it is read if the task is done. state: names of the numbers of
    the robot's state, if that is read."""
    sides = starts.by_camera(np.zeros((1, *starts.size, 3), np.uint8))
    cameras = {
        camera: {"dtype": "video", "shape": list(frames.shape[1:]), "names": ["height", "width", "channels"]}
        for camera, frames in sides.items()
    }
    action = {"dtype": "float32", "shape": [len(names)], "names": list(names)}
    found = cameras | {"action": action}
    if state:
        found[STATE] = {"dtype": "float32", "shape": [len(state)], "names": list(state)}
    if read:
        found |= {"generated.requested_action": action} if asked else {}
        found |= {"generated.read_action": action, "generated.deviation": {"dtype": "float32", **ONE}}
    return found | ({"generated.done": {"dtype": "float32", **ONE}} if judged else {}) | ABOUT


def columns(
    start: Start,
    checkpoint: str,
    seed: int,
    read: tuple[np.ndarray, np.ndarray] | None = None,
    label: str = "requested",
    done: np.ndarray | None = None,
    state: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Of an episode from this start. checkpoint: which model drew it. read: what Labels reads of it; label: whether the
    column action is what was "requested", or "read". done: what a SuccessReader reads; state: what a
    StateReader reads."""
    length = len(start.actions)
    same = {"generated": True, "generated.checkpoint": checkpoint, "generated.seed": seed}
    same |= {"generated.source_episode": start.source, "generated.source_frame": start.source_frame}
    same |= {"generated.actions_of": start.actions_of}
    found = {"action": start.actions}
    if read is not None:
        found |= {"generated.requested_action": start.actions} if start.actions_of != NO_EPISODE else {}
        found |= {"generated.read_action": read[0]}
        found |= {"action": read[0] if label == "read" else start.actions, "generated.deviation": read[1]}
    found |= {} if done is None else {"generated.done": done}
    found |= {} if state is None else {STATE: state}
    return found | {name: np.full(length, value) for name, value in same.items()}


def card(starts: Starts, model: Mapping[str, str | int], how: str) -> str:
    """README.md. model: "file", "sha256" and "step" of what drew; how: the flags that decide what."""
    origin = origin_of(starts.dataset.root)
    licence = origin.get("licence")
    return f"""---
{f"license: {licence}" if licence else "license: other"}
tags:
- LeRobot
- robotics
- synthetic
configs:
- config_name: default
  data_files: data/*/*.parquet
---
# Generated episodes

Every frame but the first of each episode is drawn by a video model, {model["file"]} (SHA-256 {model["sha256"]}, step
{model["step"]}): `{how}`.

First frames and actions are from {said_of(origin)}
Its rights hold for what is made of it.

| column | meaning |
|---|---|
| action | what the model was asked to show; with "label": "read" what is read from the video |
| generated.requested_action, generated.read_action | both, if they are read |
| generated.deviation | what is believed of the error of what is read, in deviations of the data |
| observation.state | read from the video, if it is there |
| generated.done | what is believed at each frame of the task being done, 0 to 1, if it is read |
| generated | true |
| generated.checkpoint, generated.seed | which model drew the episode, from which noise |
| generated.source_episode, generated.source_frame | the real frame that it begins with |
| generated.actions_of | the real episode whose actions these are, or that they come from; {NO_EPISODE}: no episode's |
"""
