"""The features of generated episodes, and the card of a dataset of them: a row says that it is generated, and how."""

from collections.abc import Mapping

import numpy as np

from utils.lerobot.origin import origin_of, said_of
from utils.robots.starts import Start, Starts

ONE = {"shape": [1], "names": None}
# Beside frames and actions. None begins with "action" or "observation": a policy would learn from it.
ABOUT = {
    "generated": {"dtype": "bool", **ONE},
    "generated.checkpoint": {"dtype": "string", **ONE},
    "generated.seed": {"dtype": "int64", **ONE},
    "generated.source_episode": {"dtype": "int64", **ONE},
    "generated.source_frame": {"dtype": "int64", **ONE},
    "generated.actions_of": {"dtype": "int64", **ONE},
}


def features(starts: Starts, names: tuple[str, ...], read: bool) -> dict[str, dict]:
    """For a LeRobotWriter. names: of the numbers of an action. read: whether they are read from the videos, too."""
    sides = starts.by_camera(np.zeros((1, *starts.size, 3), np.uint8))
    cameras = {
        camera: {"dtype": "video", "shape": list(frames.shape[1:]), "names": ["height", "width", "channels"]}
        for camera, frames in sides.items()
    }
    action = {"dtype": "float32", "shape": [len(names)], "names": list(names)}
    two = {"generated.requested_action": action, "generated.read_action": action}
    two["generated.deviation"] = {"dtype": "float32", **ONE}
    return cameras | {"action": action} | (two if read else {}) | ABOUT


def columns(
    start: Start,
    checkpoint: str,
    seed: int,
    read: tuple[np.ndarray, np.ndarray] | None = None,
    label: str = "requested",
) -> dict[str, np.ndarray]:
    """Of an episode from this start. checkpoint: which model drew it. read: what Labels reads of it; label: whether the
    column action is what was "requested", or "read"."""
    length = len(start.actions)
    same = {"generated": True, "generated.checkpoint": checkpoint, "generated.seed": seed}
    same |= {"generated.source_episode": start.source, "generated.source_frame": start.source_frame}
    same |= {"generated.actions_of": start.actions_of}
    found = {"action": start.actions}
    if read is not None:
        found |= {"generated.requested_action": start.actions, "generated.read_action": read[0]}
        found |= {"action": read[0] if label == "read" else start.actions, "generated.deviation": read[1]}
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
| generated | true |
| generated.checkpoint, generated.seed | which model drew the episode, from which noise |
| generated.source_episode, generated.source_frame | the real frame that it begins with |
| generated.actions_of | the real episode whose actions these are, or that they come from |
"""
