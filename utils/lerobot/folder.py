"""LeRobot datasets as they lie in a folder: their cameras, their episodes, and the numbers of each.

Formats v3.0, which has many episodes in a file, and v2.0 and v2.1, which have a file for each. The specification is the
source of lerobot itself (Apache-2.0), lerobot/datasets/dataset_metadata.py and utils.py there.
"""

import functools
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow

INFO = "meta/info.json"
OF_THE_FORMAT = ("timestamp", "frame_index", "episode_index", "index", "task_index")  # columns that all datasets have
NUMBERS = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "bool")


class LeRobotError(ValueError):
    """A folder that is no LeRobot dataset that can be read; the message is the reason in one line."""


@dataclass(frozen=True)
class Span:
    """Where the video of a camera lies: a file, and the seconds in it at which the episode begins."""

    file: Path
    start: float = 0.0


@dataclass(frozen=True)
class Episode:
    """tasks: what was to be done, in words. length: frames. rows: the file with its numbers. videos: by camera."""

    index: int
    tasks: tuple[str, ...]
    length: int
    rows: Path
    videos: dict[str, Span]


class LeRobotFolder:
    """What the meta files of a dataset say.

    version; fps; features, as in info.json; cameras: features that are videos, but for depth; names: {feature without
    "observation.": names of its numbers}, of all that are numbers and no part of the format; episodes: by index, in
    order. Raises LeRobotError, also for files that would lie elsewhere than in the folder.
    """

    def __init__(self, root: Path):
        self.root = root
        info = _parsed(root / INFO)
        try:
            self.version, self.fps = str(info["codebase_version"]), float(info["fps"])
            self.features = dict(info["features"])
            self.templates = {"rows": info["data_path"], "videos": info.get("video_path")}
            self.chunk_size = int(info.get("chunks_size", 1000))
            kinds = {name: each["dtype"] for name, each in self.features.items()}
            self.cameras = [name for name, kind in kinds.items() if kind == "video" and not _deep(self.features[name])]
            self.stills = [name for name, kind in kinds.items() if kind == "image"]
            numbers = [name for name, kind in kinds.items() if kind in NUMBERS and name not in OF_THE_FORMAT]
            self.columns = {name.removeprefix("observation.").replace(".", "_"): name for name in numbers}
            self.names = {short: _names(short, self.features[name]) for short, name in self.columns.items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LeRobotError(f"{INFO}: not as lerobot writes it ({error!r})") from None
        if self.fps <= 0:
            raise LeRobotError(f"{INFO}: {self.fps:g} frames per second")
        read = {"v3": self._episodes_v3, "v2": self._episodes_v2}.get(self.version[:2])
        if read is None:
            raise LeRobotError(f"{INFO}: format {self.version}; v2.0, v2.1 and v3.0 can be read")
        try:
            self.episodes = {each.index: each for each in sorted(read(), key=lambda episode: episode.index)}
        except LeRobotError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LeRobotError(f"meta of {self.version}: not as lerobot writes it ({error!r})") from None

    def _episodes_v3(self) -> Iterable[Episode]:
        files = sorted((self.root / "meta/episodes").glob("*/*.parquet"))
        if not files:
            raise LeRobotError("meta/episodes: there are no Parquet files")
        for file in files:
            table = _table(file)
            wanted = ("episode_index", "tasks", "length", "data/", "videos/")
            for row in table.select([name for name in table.column_names if name.startswith(wanted)]).to_pylist():
                place = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
                rows = self._file("rows", **place)
                videos = {camera: self._span(row, camera) for camera in self.cameras}
                yield Episode(row["episode_index"], tuple(row["tasks"]), int(row["length"]), rows, videos)

    def _span(self, row: dict, camera: str) -> Span:
        place = {name: row[f"videos/{camera}/{name}"] for name in ("chunk_index", "file_index")}
        file = self._file("videos", video_key=camera, **place)
        return Span(file, float(row[f"videos/{camera}/from_timestamp"]))

    def _file(self, kind: str, **place) -> Path:
        file = self.root / self.templates[kind].format(**place)
        if not Path(os.path.normpath(file)).is_relative_to(os.path.normpath(self.root)):
            raise LeRobotError(f"{INFO}: its {kind} would lie outside of the folder, in {file}")
        return file

    def _episodes_v2(self) -> Iterable[Episode]:
        for row in _parsed(self.root / "meta/episodes.jsonl", lines=True):
            index = row["episode_index"]
            place = {"episode_chunk": index // self.chunk_size, "episode_index": index}
            videos = {camera: Span(self._file("videos", video_key=camera, **place)) for camera in self.cameras}
            yield Episode(index, tuple(row["tasks"]), int(row["length"]), self._file("rows", **place), videos)

    def chosen_cameras(self, wanted: Iterable[str] | None) -> list[str]:
        """Those that are asked for, or the only one; a name may go without "observation.images.". Raises LeRobotError
        where it is not clear which."""
        if wanted is None:
            if len(self.cameras) == 1:
                return self.cameras
            if not self.cameras:
                inside = f"; {', '.join(self.stills)} lie in its Parquet files as pictures, convert them to videos"
                raise LeRobotError(f"it has no camera with videos{inside if self.stills else ''}")
            raise LeRobotError(f"it has the cameras {', '.join(self.cameras)}; --cameras says which, side by side")
        found = []
        for name in wanted:
            match = [camera for camera in self.cameras if name in (camera, camera.rpartition(".")[2])]
            if len(match) != 1:
                raise LeRobotError(f"--cameras: there is no {name}; it has {', '.join(self.cameras) or 'none'}")
            found += match
        return found

    @functools.cached_property
    def tasks(self) -> dict[int, str]:
        """What was to be done, in words, by task_index. Raises LeRobotError."""
        try:
            if self.version.startswith("v3"):
                table = _table(self.root / "meta/tasks.parquet")
                column = "task" if "task" in table.column_names else "__index_level_0__"  # as pandas calls it
                return dict(zip(table["task_index"].to_pylist(), table[column].to_pylist(), strict=True))
            rows = _parsed(self.root / "meta/tasks.jsonl", lines=True)
            return {int(row["task_index"]): str(row["task"]) for row in rows}
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, LeRobotError):
                raise
            raise LeRobotError(f"meta/tasks: not as lerobot writes it ({error!r})") from None

    def rows(self, episode: Episode) -> "pyarrow.Table":
        """Every column of an episode, as it is stored. Raises LeRobotError for files that are not there, or have other
        rows than the episode frames."""
        table = _rows_of(episode.rows, episode.index)
        if len(table) != episode.length:
            raise LeRobotError(f"{episode.rows.name}: {len(table)} rows for the {episode.length} frames of an episode")
        return table

    def numbers(self, episode: Episode, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(values (length, D) float32, seconds (length,) from the beginning) of a feature in an episode. Raises
        LeRobotError for files that are not there, or have other rows than the episode frames."""
        table, column = self.rows(episode), self.columns[name]
        if column not in table.column_names:
            raise LeRobotError(f"{episode.rows.name}: it has no column {column}, of which {INFO} speaks")
        column = table[column].combine_chunks()
        while hasattr(column, "flatten") and column.type.num_fields:  # lists, of lists
            column = column.flatten()
        values = np.asarray(column.to_numpy(zero_copy_only=False), np.float32)
        if values.size != episode.length * len(self.names[name]):
            raise LeRobotError(f"{episode.rows.name}: {name} has other numbers than {INFO} says")
        seconds = np.asarray(table["timestamp"].to_numpy(), np.float64)
        return values.reshape(episode.length, -1), seconds


def is_lerobot(folder: Path) -> bool:
    return (folder / INFO).is_file()


def episode_path(folder: Path, index: int) -> Path:
    """What an episode is called as a clip; there is no such file."""
    return folder / f"episode_{index:06d}"


def episode_index(path: Path) -> int:
    """The inverse of episode_path."""
    return int(path.name.removeprefix("episode_"))


def _deep(feature: dict) -> bool:
    about = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    return bool(about.get("is_depth_map") or about.get("video.is_depth_map"))


def _names(name: str, feature: dict) -> tuple[str, ...]:
    """Of a feature's numbers; where the dataset gives none, or not for each, they are counted."""
    names, count = feature.get("names"), int(np.prod(feature["shape"]))
    if isinstance(names, dict):  # {"motors": [...]}
        names = [each for group in names.values() for each in (group if isinstance(group, list) else [group])]
    if isinstance(names, list) and len(names) == count and len(set(map(str, names))) == count:
        return tuple(map(str, names))
    return tuple(f"{name}_{n}" for n in range(count))


def _parsed(path: Path, lines: bool = False):
    """What a JSON file says, or each of its lines."""
    try:
        text = path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines() if line.strip()] if lines else json.loads(text)
    except OSError as error:
        raise LeRobotError(f"{path.name}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise LeRobotError(f"{path.name}: is no JSON ({error})") from None


def _table(path: Path) -> "pyarrow.Table":
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise LeRobotError("its Parquet files need pyarrow: pip install pyarrow") from None
    try:
        return parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise LeRobotError(f"{path.name}: cannot be read ({' '.join(str(error).split())[:100]})") from None


_kept_table = functools.lru_cache(maxsize=4)(_table)


def _rows_of(path: Path, index: int) -> "pyarrow.Table":
    """The rows of one episode."""
    import pyarrow.compute

    table = _kept_table(path)
    return table.filter(pyarrow.compute.equal(table["episode_index"], index))
