"""LeRobot datasets out, format v3.0: many episodes in a file of rows and in a video of each camera.

Each episode is put aside whole first, in .staged/, so that who writes thousands goes on after a stop; finish() joins
them and writes what a dataset says of itself, meta/info.json last: without that there is no dataset. The specification
is the source of lerobot itself (Apache-2.0), lerobot/datasets/dataset_writer.py and dataset_metadata.py.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from utils.decoding.probe import probe_video
from utils.files import whole_file, whole_folder, write_text
from utils.lerobot.folder import INFO, NUMBERS, OF_THE_FORMAT, LeRobotError
from utils.lerobot.origin import CARD
from utils.lerobot.statistics import Stats, column_stats, combined, video_stats
from utils.video.encode import write_video
from utils.video.join import join_videos

VERSION, STAGED = "v3.0", ".staged"
CHUNK, ROWS_MB, VIDEO_MB = 1000, 100, 200  # files in a folder, and their sizes, as lerobot has them
KEY_EVERY = 4  # frames: who trains a policy reads single ones
PLACE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA_PATH, VIDEO_PATH = f"data/{PLACE}.parquet", f"videos/{{video_key}}/{PLACE}.mp4"
EPISODES_PATH = f"meta/episodes/{PLACE}.parquet"


class LeRobotWriter:
    """A dataset that is written to `root`.

    features: as in info.json, {name: {"dtype", "shape", "names"}}, without those that all datasets have; cameras have
    dtype "video" and shape [H, W, 3], both even. tasks: those that are known, which keep their order; others follow.
    card: the text of README.md. Raises LeRobotError for a folder that holds a finished dataset or something else, and
    for features of a kind that it does not write.
    """

    def __init__(
        self,
        root: Path,
        fps: float,
        features: Mapping[str, dict],
        robot_type: str | None = None,
        tasks: Sequence[str] = (),
        card: str | None = None,
    ):
        self.root, self.fps, self.robot_type, self.card = root, fps, robot_type, card
        self.features = {name: dict(each) for name, each in features.items() if name not in OF_THE_FORMAT}
        self.tasks = list(tasks)
        for name, each in self.features.items():
            if each["dtype"] not in (*NUMBERS, "string", "video"):
                raise LeRobotError(f"{name}: features of kind {each['dtype']} cannot be written")
        self.cameras = [name for name, each in self.features.items() if each["dtype"] == "video"]
        if (root / INFO).exists():
            raise LeRobotError("holds a finished dataset; choose another folder")
        if root.is_dir() and any(path.name != STAGED for path in root.iterdir() if not self._own(path)):
            raise LeRobotError("holds something else; choose another folder")

    def _own(self, path: Path) -> bool:
        """Whether it is what an interrupted finish() left."""
        return (self.root / STAGED).is_dir() and path.name in ("data", "videos", "meta", CARD)

    def made_with(self, settings: dict) -> None:
        """Note what decides the episodes. Raises LeRobotError where those that have been put aside were made with other
        settings."""
        file = self.root / STAGED / "settings.json"
        text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
        if file.is_file() and file.read_text(encoding="utf-8") != text:
            before = json.loads(file.read_text(encoding="utf-8"))
            differ = sorted(name for name in before.keys() | settings if before.get(name) != settings.get(name))
            raise LeRobotError(
                f"holds unfinished episodes of other settings ({', '.join(differ)}); choose another folder"
            )
        write_text(file, text)

    def skip(self, index: int) -> None:
        """Note that an episode is not worth keeping, so that it is not made again."""
        write_text(self.root / STAGED / f"skipped_{index:06d}", "")

    def skipped(self) -> set[int]:
        """The numbers of those."""
        return {int(path.name.removeprefix("skipped_")) for path in (self.root / STAGED).glob("skipped_" + "[0-9]" * 6)}

    def staged(self) -> set[int]:
        """The numbers of the episodes that have been put aside whole."""
        return {int(path.name.removeprefix("episode_")) for path in (self.root / STAGED).glob("episode_" + "[0-9]" * 6)}

    def add(
        self,
        index: int,
        tasks: str | Sequence[str],
        columns: Mapping[str, np.ndarray],
        videos: Mapping[str, np.ndarray],
    ) -> None:
        """Put an episode aside; one of that number is replaced.

        tasks: for the whole episode, or one for each frame. columns: {feature: values (T, ...)}. videos: {camera: uint8
        (T, H, W, 3)}. Raises ValueError for what does not fit the features, OSError if it cannot be written.
        """
        length = len(next(iter((videos or columns).values())))
        given = {**columns, **videos}
        if given.keys() != self.features.keys():
            differ = sorted(given.keys() ^ self.features.keys())
            raise ValueError(f"episode {index}: given and promised features differ in {', '.join(differ)}")
        for name, values in given.items():
            shape = tuple(self.features[name]["shape"])
            if np.shape(values) != (length, *shape) and (np.shape(values), shape) != ((length,), (1,)):
                raise ValueError(f"episode {index}: {name} has shape {np.shape(values)}, not {(length, *shape)}")
        every = [tasks] * length if isinstance(tasks, str) else list(tasks)
        if len(every) != length:
            raise ValueError(f"episode {index}: {len(every)} tasks for {length} frames")
        stats = {name: column_stats(_flat(values)) for name, values in columns.items() if self._numbers(name)}
        stats |= {name: video_stats(frames) for name, frames in videos.items()}
        about = {"length": length, "tasks": every, "stats": _plain(stats)}
        size = sum(np.asarray(values).nbytes for values in given.values())
        with whole_folder(self._folder(index), size) as folder:
            _write_table(folder / "rows.parquet", {name: self._array(name, each) for name, each in columns.items()})
            for camera, frames in videos.items():
                write_video(folder / f"{camera}.mp4", frames, self.fps, key_every=KEY_EVERY)
            write_text(folder / "episode.json", json.dumps(about) + "\n")

    def _folder(self, index: int) -> Path:
        return self.root / STAGED / f"episode_{index:06d}"

    def _numbers(self, name: str) -> bool:
        return self.features[name]["dtype"] in NUMBERS

    def _array(self, name: str, values):
        """A column as lerobot stores it: numbers alone where a row has one, else lists of so many."""
        import pyarrow

        kind, shape = self.features[name]["dtype"], list(self.features[name]["shape"])
        kinds = {"bool": "bool_", "float16": "float16", "float32": "float32", "float64": "float64"}
        arrow = getattr(pyarrow, kinds.get(kind, kind))()
        if kind == "string" or shape == [1]:
            return pyarrow.array(np.asarray(values).reshape(len(values)).tolist(), arrow)
        for size in reversed(shape):
            arrow = pyarrow.list_(arrow, size)
        return pyarrow.array(np.asarray(values).tolist(), arrow)

    def finish(self) -> int:
        """Join what was put aside, and write meta; returns the number of episodes. They are numbered anew, from 0, in
        the order of theirs. Raises LeRobotError if there is none."""
        staged = sorted(self.staged())
        if not staged:
            raise LeRobotError("no episode was written")
        about = [json.loads((self._folder(n) / "episode.json").read_text(encoding="utf-8")) for n in staged]
        lengths = [each["length"] for each in about]
        ends = list(accumulate(lengths))
        for each in about:
            self.tasks += [task for task in dict.fromkeys(each["tasks"]) if task not in self.tasks]
        rows = [
            {"episode_index": n, "tasks": list(dict.fromkeys(each["tasks"])), "length": each["length"]}
            for n, each in enumerate(about)
        ]
        for row, end in zip(rows, ends, strict=True):
            row |= {"dataset_from_index": end - row["length"], "dataset_to_index": end}
        common = [self._common(n, each, ends[n] - each["length"]) for n, each in enumerate(about)]
        self._join_rows(staged, common, rows)
        for camera in self.cameras:
            self._join_videos(camera, staged, rows)
        stats = [each["stats"] | _plain(_stats_of(columns)) for each, columns in zip(about, common, strict=True)]
        for row, each in zip(rows, stats, strict=True):
            row |= {f"stats/{name}/{key}": value for name, found in each.items() for key, value in found.items()}
            row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        self._write_meta(rows, {name: combined([_arrays(each[name]) for each in stats]) for name in stats[0]})
        shutil.rmtree(self.root / STAGED)
        return len(staged)

    def _common(self, number: int, about: dict, start: int) -> dict[str, np.ndarray]:
        """The columns that all datasets have."""
        frames = np.arange(about["length"])
        return {
            "timestamp": (frames / self.fps).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(len(frames), number),
            "index": start + frames,
            "task_index": np.array([self.tasks.index(task) for task in about["tasks"]]),
        }

    def _join_rows(self, staged: list[int], common: list[dict], rows: list[dict]) -> None:
        import pyarrow
        from pyarrow import parquet

        tables = []
        for number, columns in zip(staged, common, strict=True):
            table = parquet.read_table(self._folder(number) / "rows.parquet")
            for name, values in columns.items():
                table = table.append_column(name, pyarrow.array(values))
            tables.append(table)
        for place, part in _files([table.nbytes for table in tables], ROWS_MB):
            path, schema = self.root / DATA_PATH.format(**place), tables[0].schema
            with whole_file(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
                for n in part:  # an episode is a row group
                    writer.write_table(tables[n])
            for n in part:
                rows[n] |= {f"data/{name}": value for name, value in place.items()}

    def _join_videos(self, camera: str, staged: list[int], rows: list[dict]) -> None:
        files = [self._folder(number) / f"{camera}.mp4" for number in staged]
        for place, part in _files([file.stat().st_size for file in files], VIDEO_MB):
            path = self.root / VIDEO_PATH.format(video_key=camera, **place)
            join_videos([files[n] for n in part], path)
            start = 0
            for n in part:
                end = start + rows[n]["length"]
                rows[n] |= {f"videos/{camera}/{name}": value for name, value in place.items()}
                rows[n] |= {f"videos/{camera}/from_timestamp": start / self.fps}
                rows[n] |= {f"videos/{camera}/to_timestamp": end / self.fps}
                start = end
        self.features[camera]["info"] = self._video_info(camera)

    def _video_info(self, camera: str) -> dict:
        info = probe_video(self.root / VIDEO_PATH.format(video_key=camera, chunk_index=0, file_index=0), decode=False)
        about = {"height": info.height, "width": info.width, "codec": "h264", "pix_fmt": "yuv420p", "channels": 3}
        about = {f"video.{name}": value for name, value in {**about, "fps": self.fps}.items()}
        return about | {"video.is_depth_map": False, "has_audio": False}

    def _write_meta(self, rows: list[dict], stats: dict[str, Stats]) -> None:
        """Everything but the rows; info.json last."""
        import pyarrow
        from pyarrow import parquet

        with whole_file(self.root / EPISODES_PATH.format(chunk_index=0, file_index=0)) as path:
            parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        with whole_file(self.root / "meta/tasks.parquet") as path:
            parquet.write_table(_tasks_table(self.tasks), path)
        write_text(self.root / "meta/stats.json", json.dumps(_plain(stats), indent=1) + "\n")
        if self.card:
            write_text(self.root / CARD, self.card)
        kinds = dict.fromkeys(OF_THE_FORMAT, "int64") | {"timestamp": "float32"}
        features = self.features | {name: {"dtype": kind, "shape": [1], "names": None} for name, kind in kinds.items()}
        fps = int(self.fps) if self.fps == int(self.fps) else self.fps
        info = {"codebase_version": VERSION, "robot_type": self.robot_type, "fps": fps, "features": features}
        info |= {"total_episodes": len(rows), "total_frames": sum(row["length"] for row in rows)}
        info |= {"total_tasks": len(self.tasks), "splits": {"train": f"0:{len(rows)}"}}
        info |= {"chunks_size": CHUNK, "data_files_size_in_mb": ROWS_MB, "video_files_size_in_mb": VIDEO_MB}
        info |= {"data_path": DATA_PATH, "video_path": VIDEO_PATH if self.cameras else None}
        write_text(self.root / INFO, json.dumps(info, indent=1) + "\n")


def _files(sizes: list[int], megabytes: float) -> Iterable[tuple[dict[str, int], list[int]]]:
    """(place of a file, which parts go into it): as many, in order, as its size allows."""
    files, used = [[]], 0
    for n, size in enumerate(sizes):
        if files[-1] and used + size > megabytes * 2**20:
            files.append([])
            used = 0
        files[-1].append(n)
        used += size
    return [({"chunk_index": n // CHUNK, "file_index": n % CHUNK}, part) for n, part in enumerate(files)]


def _tasks_table(tasks: list[str]):
    """task_index by task, which is the index of the pandas table that lerobot makes of it."""
    import pyarrow

    def column(name: str, kind: str, numpy_kind: str) -> dict:
        return {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}

    columns = [column("task_index", "int64", "int64"), column("task", "unicode", "object")]
    about = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    table = pyarrow.table({"task_index": list(range(len(tasks))), "task": tasks})
    return table.replace_schema_metadata({"pandas": json.dumps(about)})


def _write_table(path: Path, columns: dict) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path)


def _stats_of(columns: dict[str, np.ndarray]) -> dict[str, Stats]:
    return {name: column_stats(values[:, None]) for name, values in columns.items()}


def _flat(values) -> np.ndarray:
    return np.asarray(values).reshape(len(values), -1)


def _plain(stats: dict[str, Stats]) -> dict[str, dict[str, list]]:
    return {name: {key: np.asarray(value).tolist() for key, value in each.items()} for name, each in stats.items()}


def _arrays(stats: dict[str, list]) -> Stats:
    return {key: np.asarray(value) for key, value in stats.items()}
