"""Episodes of a square that is moved to the middle of its row: what is to be done follows from the picture alone."""

from pathlib import Path

import numpy as np

from utils.lerobot.writer import LeRobotWriter

CAMERA, TASK, MIDDLE, SPEED = "observation.images.top", "to the middle", 12, 3


def picture(x: float) -> np.ndarray:
    frame = np.full((32, 32, 3), 60, np.uint8)
    x = round(min(max(x, 0), 24))
    frame[10:18, x : x + 8] = 220
    return frame


def expert(x: float) -> np.ndarray:
    """(right, hold): how far to go, in px / SPEED, at most 1; and 1 near the middle."""
    return np.array([np.clip((MIDDLE - x) / SPEED, -1, 1), abs(x - MIDDLE) < 4], np.float32)


def write_homing(root: Path, episodes: int = 32, length: int = 9, fps: int = 10, tasks: tuple = (TASK,)) -> Path:
    """The episodes take turns with the tasks."""
    features = {
        CAMERA: {"dtype": "video", "shape": [32, 32, 3], "names": None},
        "observation.state": {"dtype": "float32", "shape": [1], "names": ["x"]},
        "action": {"dtype": "float32", "shape": [2], "names": ["right", "hold"]},
        "success": {"dtype": "bool", "shape": [1], "names": None},
    }
    writer = LeRobotWriter(root, fps, features)
    for n in range(episodes):
        x, rows = 24 * (7 * n % episodes) / (episodes - 1), []
        for _ in range(length):
            rows.append((picture(x), expert(x), abs(x - MIDDLE) < 2, np.float32(x)))
            x += SPEED * expert(x)[0]
        frames, actions, success, states = (np.array(each) for each in zip(*rows, strict=True))
        columns = {"observation.state": states, "action": actions, "success": success}
        writer.add(n, tasks[n % len(tasks)], columns, {CAMERA: frames})
    writer.finish()
    return root
