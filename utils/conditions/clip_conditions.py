"""What is known of the clips of a data folder beside frames and captions: files of the same name in folders of it.

depth/<name>.mp4, say, of the map "depth"; vectors/<name>.csv; the sound of the clip itself. Which folders are meant the
flags --maps, --vectors and --audio say.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from utils.cli import printable
from utils.conditions.maps import ConditionError, MapFile, as_floats, find_map, map_indices, probe_map, read_map
from utils.conditions.sound import BYTES_PER_SECOND, NAMES, bands_of, find_sound, power_of, read_sound
from utils.conditions.vectors import Vectors, at_times, find_vectors, read_vectors
from utils.data.errors import DataError
from utils.lerobot.folder import LeRobotError, LeRobotFolder, episode_index, is_lerobot

if TYPE_CHECKING:
    from utils.decoding.video_info import VideoInfo

AUDIO, FLOW = "audio", "flow"
KEPT_BYTES = 256 * 2**20  # of maps and sound that are kept in memory, per process


class ClipConditions:
    """Reads the conditions of clips. maps, vectors: names of folders in data_dir. audio: whether sound is one.

    channels, names: {map: channels}, {vectors: names of the numbers}, of the first clip that has any, or as a model was
    trained with them. Raises DataError for a folder that is not there, or of which no file belongs to a clip.
    """

    def __init__(
        self,
        data_dir: Path,
        clips: Sequence["VideoInfo"],
        maps: Sequence[str] = (),
        vectors: Sequence[str] = (),
        audio: bool = False,
    ):
        self.data_dir, self.maps, self.vectors, self.audio = data_dir, list(maps), list(vectors), audio
        self.found: dict[tuple[str, str], MapFile | Vectors | Path | str] = {}
        self.kept, self.kept_bytes = {}, 0
        try:
            self.episodes = LeRobotFolder(data_dir) if is_lerobot(data_dir) else None
        except LeRobotError as error:
            raise DataError(f"{printable(data_dir)}: {error}") from None
        of_episodes = self.episodes.names if self.episodes else {}
        for flag, names in (("--maps", self.maps), ("--vectors", self.vectors)):
            for name in names:
                if flag == "--vectors" and name in of_episodes:
                    continue
                if self.episodes:
                    raise DataError(f"{flag}: the episodes have no {name}; vectors are {', '.join(of_episodes)}")
                if not (data_dir / name).is_dir():
                    raise DataError(f"{flag}: there is no folder {printable(data_dir / name)}")
        self.channels = {name: self._first(name, clips).channels for name in self.maps}
        self.names = {name: self._first(name, clips).names for name in self.vectors}
        if audio:
            self._first(AUDIO, clips)
            self.names[AUDIO] = NAMES

    def _first(self, name: str, clips: Sequence["VideoInfo"]) -> MapFile | Vectors | Path:
        for clip in clips:
            if not isinstance(found := self._load(name, clip), str):
                return found
        where = "no clip has sound" if name == AUDIO else f"no usable file in {printable(self.data_dir / name)}"
        raise DataError(f"--{self._flag(name)}: {where} for any clip ({found}); files are called as the clips are")

    def _flag(self, name: str) -> str:
        return AUDIO if name == AUDIO else "maps" if name in self.maps else "vectors"

    @property
    def all_names(self) -> list[str]:
        return [*self.maps, *self.vectors, *([AUDIO] if self.audio else [])]

    @property
    def may_mirror(self) -> bool:
        """Whether a mirrored clip has known conditions: vectors may mean left and right, and nobody knows which."""
        return not self.vectors

    def _load(self, name: str, clip: "VideoInfo") -> MapFile | Vectors | Path | str:
        """What belongs to a clip, opened once; or the reason why there is nothing."""
        key = name, clip.path
        if key in self.found:
            return self.found[key]
        if self.episodes and name in self.vectors:
            self.found[key] = episode_vectors(self.episodes, name, episode_index(Path(clip.path)))
            return self.found[key]
        path, stem = Path(clip.path), Path(clip.path).stem if not Path(clip.path).is_dir() else Path(clip.path).name
        folder = self.data_dir / name
        try:
            if name == AUDIO:
                file = find_sound(folder, stem, path)
                found = file or "no sound"
            elif name in self.maps:
                file = find_map(folder, stem)
                found = "no file" if file is None else probe_map(file)
            else:
                file = find_vectors(folder, stem)
                found = "no file" if file is None else read_vectors(file)
        except ConditionError as error:
            found = f"{printable(file.name)}: {error}"
        self.found[key] = found
        return found

    def _keep(self, name: str, clip: "VideoInfo", size: int, make: Callable[[], np.ndarray]) -> np.ndarray | None:
        """What `make` gives, from memory the next time; None if it, of so many bytes, finds no place there."""
        key = name, clip.path
        if key not in self.kept:
            if self.kept_bytes + size > KEPT_BYTES:
                return None
            self.kept[key] = make()
            self.kept_bytes += self.kept[key].nbytes
        return self.kept[key]

    def read(
        self, clip: "VideoInfo", indices: np.ndarray, place: Callable[[np.ndarray], np.ndarray], mirrored: bool = False
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, str]]:
        """(conditions of these frames of a clip by name, whether each is present, why not).

        Maps (C, T, H, W) in [-1, 1] through `place`, which cuts frames (T, H, W, C) as those of the clip were cut;
        vectors (T, D). What is absent is zeros.
        """
        values, why = {}, {}
        for name in self.all_names:
            try:
                found = self._load(name, clip)
                if isinstance(found, str):
                    raise ConditionError(found)
                values[name] = self._values(name, found, clip, indices, place, mirrored)
            except ConditionError as error:
                why[name] = str(error)
        if why:
            shape = place(np.zeros((len(indices), clip.height, clip.width, 1), np.float32)).shape[:3]
            for name in why:
                channels = self.channels.get(name)
                empty = (len(indices), len(self.names[name])) if channels is None else (channels, *shape)
                values[name] = np.zeros(empty, np.float32)
        return values, {name: float(name not in why) for name in self.all_names}, why

    def __getstate__(self) -> dict:
        return self.__dict__ | {"kept": {}, "kept_bytes": 0}  # a spawned worker fills its own

    def _values(self, name, found, clip: "VideoInfo", indices: np.ndarray, place, mirrored: bool) -> np.ndarray:
        times = indices / clip.fps if clip.times is None else np.array(clip.times)[indices]
        if name in self.maps:
            wanted, channels = map_indices(found, clip, indices), self.channels[name]
            size = found.frames * clip.height * clip.width * channels
            whole = self._keep(name, clip, size, lambda: read_map(found, np.arange(found.frames), channels))
            frames = read_map(found, wanted, channels) if whole is None else whole[wanted]
            frames = place(resized(as_floats(frames), clip.height, clip.width))
            if mirrored and name == FLOW:
                frames = frames * np.where(np.arange(frames.shape[-1]) == 0, -1, 1)  # what went right goes left
            return np.ascontiguousarray(frames.transpose(3, 0, 1, 2), dtype=np.float32)
        if name == AUDIO:
            start = clip.start if str(found) == clip.path else 0.0
            size = round(clip.frames / clip.fps * BYTES_PER_SECOND)
            power = self._keep(name, clip, size, lambda: power_of(read_sound(found, start)))
            power = power_of(read_sound(found, start)) if power is None else power
            interval = float(np.median(np.diff(times))) if len(times) > 1 else 1 / clip.fps
            return bands_of(power, times, interval or 1 / clip.fps)
        if found.names != self.names[name]:
            raise ConditionError(f"has {', '.join(found.names)}, other clips' have {', '.join(self.names[name])}")
        return at_times(found, times, clip.frames / clip.fps)

    def missing(self, clips: Iterable["VideoInfo"]) -> dict[str, list[str]]:
        """{what is wrong: [clips]}, for a report; every file is opened."""
        problems = defaultdict(list)
        for clip in clips:
            values, present, why = self.read(clip, np.arange(clip.frames), lambda frames: frames[:, :1, :1])
            for name, reason in why.items():
                problems[f"{name}: {reason.split(': ', 1)[-1]}"].append(Path(clip.path).name)
        return dict(problems)

    def statistics(self, samples: Iterator[dict]) -> dict[str, dict]:
        """{vectors: {"names", "mean", "std"}} over samples with "conditions" and "present", for ConditionSettings."""
        seen = defaultdict(list)
        for sample in samples:
            for name in self.names:
                if sample["present"][name]:
                    seen[name].append(np.asarray(sample["conditions"][name]))
        about = {}
        for name, names in self.names.items():
            rows = np.concatenate(seen[name]) if seen[name] else np.zeros((1, len(names)))
            std = rows.std(axis=0)
            about[name] = {
                "names": list(names),
                "mean": rows.mean(axis=0).round(6).tolist(),
                "std": np.where(std > 1e-6, std, 1.0).round(6).tolist(),
            }
        return about


def episode_vectors(folder: LeRobotFolder, name: str, index: int) -> Vectors | str:
    """The numbers of an episode, one row for each frame; or why there are none."""
    try:
        values, seconds = folder.numbers(folder.episodes[index], name)
    except LeRobotError as error:
        return str(error)
    if not np.isfinite(values).all():
        return "has values that are no numbers"
    return Vectors(folder.names[name], values, seconds)


def resized(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Frames (T, H, W, C) float32 at another size."""
    if frames.shape[1:3] == (height, width):
        return frames
    how = cv2.INTER_AREA if frames.shape[1] > height else cv2.INTER_LINEAR
    return np.stack([cv2.resize(frame, (width, height), interpolation=how) for frame in frames]).reshape(
        len(frames), height, width, -1
    )
