"""Writes what lerobot itself is to open: `python -m tests.lerobot.check.write DIR`, as `make lerobot-check` does."""

import shutil
import sys
from pathlib import Path

import numpy as np

from tests.lerobot.datasets import CAMERAS, FPS, LENGTHS, SIZES, TASKS, frames_of, numbers_of
from utils.lerobot.writer import LeRobotWriter


def main(root: Path) -> None:
    """Episodes of known frames and numbers, with what says that they are generated."""
    shutil.rmtree(root, ignore_errors=True)
    features = {
        camera: {"dtype": "video", "shape": [*SIZES[camera], 3], "names": ["height", "width", "channels"]}
        for camera in CAMERAS
    }
    features |= {
        "observation.state": {"dtype": "float32", "shape": [3], "names": ["a", "b", "c"]},
        "action": {"dtype": "float32", "shape": [2], "names": ["dx", "dy"]},
        "generated": {"dtype": "bool", "shape": [1], "names": None},
        "generated.checkpoint": {"dtype": "string", "shape": [1], "names": None},
    }
    writer = LeRobotWriter(root, FPS, features, "toy")
    for episode, length in enumerate(LENGTHS):
        columns = numbers_of(episode)
        columns |= {"generated": np.full(length, episode > 0), "generated.checkpoint": np.array(["a model"] * length)}
        writer.add(episode, TASKS[episode % 2], columns, {camera: frames_of(episode, camera) for camera in CAMERAS})
    print(f"{root}: {writer.finish()} episodes written")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
