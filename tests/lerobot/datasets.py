"""LeRobot datasets as lerobot writes them, byte by byte known: episodes of moving squares with actions.

Written here by the format's own description, not by what the project writes or reads.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import parquet

from tests.clips import encode

FPS, LENGTHS = 10, (12, 20, 9)
TASKS = ("push the red cube to the left", "open the drawer")
CAMERAS = ("observation.images.front", "observation.images.wrist")
SIZES = {"observation.images.front": (48, 64), "observation.images.wrist": (24, 24)}


def frames_of(episode: int, camera: str) -> np.ndarray:
    """uint8 (T, H, W, 3): a grey level for the episode, and a bright square that goes to the right, frame by frame."""
    height, width = SIZES[camera]
    frames = np.full((LENGTHS[episode], height, width, 3), 40 + 40 * episode, np.uint8)
    for t, frame in enumerate(frames):
        frame[4:12, t : t + 8] = 230
    return frames


def numbers_of(episode: int) -> dict[str, np.ndarray]:
    rng, length = np.random.default_rng(episode), LENGTHS[episode]
    state, action = rng.normal(size=(length, 3)), rng.uniform(-1, 1, size=(length, 2))
    return {"observation.state": state.astype(np.float32), "action": action.astype(np.float32)}


def write_lerobot(root: Path, version: str = "v3.0", cameras=CAMERAS, names=("dx", "dy")) -> Path:
    """Episodes of LENGTHS; the first and the last have the first task, that in between the second."""
    features = {
        camera: {"dtype": "video", "shape": [*SIZES[camera], 3], "names": ["height", "width", "channels"]}
        for camera in cameras
    }
    features |= {
        "observation.state": {"dtype": "float32", "shape": [3], "names": {"motors": ["a", "b", "c"]}},
        "action": {"dtype": "float32", "shape": [2], "names": names and list(names)},
        **{name: {"dtype": "int64", "shape": [1], "names": None} for name in ("frame_index", "episode_index", "index")},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        "task_index": {"dtype": "int64", "shape": [1], "names": None},
    }
    info = {"codebase_version": version, "fps": FPS, "features": features, "chunks_size": 1000, "robot_type": "toy"}
    info |= {"total_episodes": len(LENGTHS), "total_frames": sum(LENGTHS), "total_tasks": len(TASKS)}
    (_write_v3 if version == "v3.0" else _write_v2)(root, info, cameras)
    return root


def _write_v3(root: Path, info: dict, cameras) -> None:
    """All episodes in one file of rows, and in one video of each camera."""
    info["data_path"] = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    _json(root / "meta/info.json", info)
    starts = np.cumsum((0, *LENGTHS))
    _parquet(root / "data/chunk-000/file-000.parquet", pyarrow.concat_tables(map(_rows, range(len(LENGTHS)))))
    tasks = pyarrow.table({"task_index": list(range(len(TASKS))), "__index_level_0__": list(TASKS)})  # as pandas has it
    _parquet(root / "meta/tasks.parquet", tasks)
    rows = []
    for n, length in enumerate(LENGTHS):
        row = {"episode_index": n, "tasks": [TASKS[n % 2]], "length": length}
        row |= {"data/chunk_index": 0, "data/file_index": 0, "stats/action/mean": [0.0, 0.0]}
        row |= {"dataset_from_index": int(starts[n]), "dataset_to_index": int(starts[n + 1])}
        for camera in cameras:
            row |= {f"videos/{camera}/{name}": 0 for name in ("chunk_index", "file_index")}
            row |= {
                f"videos/{camera}/from_timestamp": starts[n] / FPS,
                f"videos/{camera}/to_timestamp": starts[n + 1] / FPS,
            }
        rows.append(row)
    _parquet(root / "meta/episodes/chunk-000/file-000.parquet", pyarrow.Table.from_pylist(rows))
    for camera in cameras:
        every = np.concatenate([frames_of(n, camera) for n in range(len(LENGTHS))])
        _video(root / info["video_path"].format(video_key=camera, chunk_index=0, file_index=0), every)


def _write_v2(root: Path, info: dict, cameras) -> None:
    """A file of rows and a video for each episode."""
    info["data_path"] = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    info["video_path"] = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    _json(root / "meta/info.json", info)
    tasks = [{"task_index": n, "task": task} for n, task in enumerate(TASKS)]
    (root / "meta/tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in tasks))
    lines = [{"episode_index": n, "tasks": [TASKS[n % 2]], "length": length} for n, length in enumerate(LENGTHS)]
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for n in range(len(LENGTHS)):
        place = {"episode_chunk": 0, "episode_index": n}
        _parquet(root / info["data_path"].format(**place), _rows(n))
        for camera in cameras:
            _video(root / info["video_path"].format(video_key=camera, **place), frames_of(n, camera))


def _rows(episode: int) -> pyarrow.Table:
    length, start = LENGTHS[episode], sum(LENGTHS[:episode])
    columns = {
        name: pyarrow.array(values.tolist(), pyarrow.list_(pyarrow.float32(), values.shape[1]))
        for name, values in numbers_of(episode).items()
    }
    columns["timestamp"] = pyarrow.array(np.arange(length, dtype=np.float32) / FPS)
    columns["frame_index"] = pyarrow.array(range(length))
    columns["episode_index"] = pyarrow.array([episode] * length)
    columns["index"] = pyarrow.array(range(start, start + length))
    columns["task_index"] = pyarrow.array([episode % 2] * length)
    return pyarrow.table(columns)


def _json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _parquet(path: Path, table: pyarrow.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path)


def _video(path: Path, frames: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encode(path, frames, "libx264", fps=FPS, options={"crf": "4", "bf": "2"})
