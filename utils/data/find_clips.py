"""The clips of a data folder: its videos with the captions that belong to them.

A data folder holds videos/<stem>.<any video extension> and captions/<stem>.txt, or both side by side, or a table
(caption_table.py), or WebDataset shards, or what prepare_dataset.py --captions wrote. A folder of pictures with a
caption stands for a video, and where pictures are asked for each that has a caption is a clip of one frame.
"""

import json
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from utils.cli import printable
from utils.data.caption_table import CAPTION_COLUMNS, find_table, read_table
from utils.data.captions import MAX_CAPTION_BYTES, check_encoding, decode_caption, one_line, read_caption
from utils.data.errors import CaptionError, DataError, MissingData
from utils.data.find_videos import VIDEO_EXTENSIONS, find_shards, find_stills, find_videos, is_still, shard_samples
from utils.data.manifest import MANIFEST, read_manifest
from utils.decoding.video_info import STILL_SUFFIXES, Section
from utils.files import natural_key
from utils.lerobot.folder import INFO, LeRobotError, LeRobotFolder, episode_path, is_lerobot

NO_CAPTION, EMPTY_CAPTION = "no caption", "empty caption"
STILLS_WITHOUT_CAPTION = "pictures without a caption"
PICTURE_LEFT_OUT = "a picture; --image_share mixes pictures in"
BESIDE_A_VIDEO = "pictures beside a video of the same name"
LAYOUT = (
    "expected <data_dir>/videos/*.mp4 with <data_dir>/captions/<same name>.txt, or clip.mp4 beside clip.txt, "
    "or a table, metadata.csv say"
)


@dataclass(frozen=True)
class FolderFormat:
    """How a data folder is to be understood.

    encoding: of captions. video_column, caption_column: of a table, None for the usual names. pictures: whether single
    pictures are clips too. stills_fps: frames per second of clips that are folders of pictures, where no manifest says.
    cameras: of a LeRobot dataset, from the left; None for the only one.
    """

    encoding: str = "utf-8-sig"
    video_column: str | None = None
    caption_column: str | None = None
    pictures: bool = False
    stills_fps: float = 8.0
    cameras: Sequence[str] | None = None


class View(NamedTuple):
    """So many frames of a longer video, from these seconds on; fps: how many a second it ought to have."""

    file: Path
    start: float
    frames: int
    fps: float


@dataclass(frozen=True)
class Clip:
    """A video, a folder of pictures or a picture with its captions, or with the reason why it is left out."""

    path: Path
    texts: tuple[str, ...]
    problem: str = ""
    section: Section | None = None  # of the tar file that it lies in
    fatal: bool = False  # a caption that cannot be decoded stops training: skipping it would hide a wrong encoding
    fps: float | None = None  # of a folder of pictures
    source: str | None = None  # the video that it was cut from
    views: tuple["View", ...] = ()  # where its frames lie in longer videos, one of each camera

    @property
    def name(self) -> str:
        """For reports; what lies in a tar file comes with that."""
        folder = os.path.dirname(self.section.file) if self.section else self.path.parent
        return os.path.relpath(self.path, folder)


def find_clips(data_dir: Path, how: FolderFormat) -> tuple[list[Clip], list[str]]:
    """Every clip of data_dir in natural order with its captions, and the names of captions without a video.

    Raises MissingData for missing folders or no videos, DataError for two videos that share a caption or a table that
    cannot be read.
    """
    check_encoding(how.encoding)
    captions = data_dir / "captions"
    if not data_dir.is_dir():
        raise MissingData(f"{printable(data_dir)}: no such folder; {LAYOUT} (python video_dataset.py writes a demo)")
    if is_lerobot(data_dir):
        return _episodes(data_dir, how), []
    if how.cameras:
        raise DataError(f"{printable(data_dir)}: --cameras is for LeRobot datasets, and there is no {INFO} in it")
    prepared = read_manifest(data_dir / MANIFEST)
    if not captions.is_dir():
        if any("text" in row for row in prepared.values()):
            return [_prepared(data_dir / name, row) for name, row in prepared.items()], []
        if not prepared and (table := find_table(data_dir)):
            rows = read_table(table, how.encoding, how.video_column, how.caption_column)
            return [_of_table(path, texts, how) for path, texts in rows.items()], []
    if how.video_column or how.caption_column:
        raise DataError(f"{printable(data_dir)}: --video_column and --caption_column need a table, there is none in it")
    if not (data_dir / "videos").is_dir() and (shards := find_shards(data_dir)):
        clips = [clip for shard in shards for clip in _of_shard(shard, how)]
        if not clips:
            raise MissingData(f"{printable(data_dir)}: no sample with a video in its {len(shards)} tar files; {LAYOUT}")
        return clips, []
    return _captioned_files(data_dir, captions, prepared, how)


def _episodes(data_dir: Path, how: FolderFormat) -> list[Clip]:
    """Each episode of a LeRobot dataset as a clip, captioned by its tasks."""
    try:
        dataset = LeRobotFolder(data_dir)
        cameras = dataset.chosen_cameras(how.cameras)
    except LeRobotError as error:
        raise DataError(f"{printable(data_dir)}: {error}") from None
    if not dataset.episodes:
        raise MissingData(f"{printable(data_dir)}: a LeRobot dataset without episodes")
    clips = []
    for episode in dataset.episodes.values():
        frames = episode.length, dataset.fps
        views = tuple(View(*astuple(episode.videos[camera]), *frames) for camera in cameras)
        texts = tuple(filter(None, map(one_line, episode.tasks)))
        clips.append(Clip(episode_path(data_dir, episode.index), texts, "" if texts else NO_CAPTION, views=views))
    return clips


def _prepared(folder: Path, row: dict) -> Clip:
    texts = tuple(row.get("text", ()))
    return Clip(folder, texts, "" if texts else NO_CAPTION, fps=row.get("fps"), source=row.get("source"))


def _of_table(path: Path, texts: tuple[str, ...], how: FolderFormat) -> Clip:
    problem = "" if texts else NO_CAPTION
    if not how.pictures and _is_picture(path):
        problem = PICTURE_LEFT_OUT
    return Clip(path, texts, problem, fps=how.stills_fps)


def _of_shard(shard: Path, how: FolderFormat) -> Iterator[Clip]:
    """Each sample's video, or its picture, captioned by its .txt or the text or caption in its .json."""
    for key, files in shard_samples(shard):
        videos = [end for end in files if end in VIDEO_EXTENSIONS] or [end for end in files if end in STILL_SUFFIXES]
        if not videos:
            continue
        path, section = Path(f"{shard}/{key}{videos[0]}"), files[videos[0]]
        try:
            texts = _texts_of_sample(path, files, how.encoding)
        except CaptionError as error:
            yield Clip(path, (), str(error), section, fatal=True)
            continue
        problem = NO_CAPTION if texts is None else "" if texts else EMPTY_CAPTION
        if not how.pictures and is_still(path):
            problem = PICTURE_LEFT_OUT
        yield Clip(path, texts or (), problem, section)


def _texts_of_sample(path: Path, files: dict[str, Section], encoding: str) -> tuple[str, ...] | None:
    """None without any. Raises CaptionError for what is no text, or no JSON."""
    section = files.get(".txt") or files.get(".json")
    if section is None:
        return None
    if section.size > MAX_CAPTION_BYTES:
        raise CaptionError(f"{printable(path)}: its caption is over 64 KB; shorten it")
    with open(section.file, "rb") as file:
        file.seek(section.start)
        text = decode_caption(file.read(section.size), f"the caption of {printable(path)}", encoding)
    found = [text]
    if ".txt" not in files:
        try:
            row = json.loads(text)
            found = next((row[name] for name in CAPTION_COLUMNS if row.get(name)), [])
        except (ValueError, AttributeError) as error:
            raise CaptionError(f"{printable(path)}: its .json is no JSON object ({error}); correct it") from None
    texts = [one_line(str(each)) for each in (found if isinstance(found, list) else [found])]
    return tuple(dict.fromkeys(filter(None, texts)))


def _captioned_files(
    data_dir: Path, captions: Path, prepared: dict[str, dict], how: FolderFormat
) -> tuple[list[Clip], list[str]]:
    videos = data_dir / "videos" if (data_dir / "videos").is_dir() else data_dir
    files = _caption_files(captions if captions.is_dir() else videos)  # or each beside its video
    by_stem: dict[str, Clip] = {}
    paths = find_videos(videos)
    for path in paths:
        other = by_stem.get(path.stem)
        if other:
            raise DataError(
                f"{printable(other.path.name)} and {printable(path.name)} in {printable(videos)} would share one "
                "caption; rename or remove one of them"
            )
        by_stem[path.stem] = _captioned(path, files.get(path.stem), how.encoding)
    clips = list(by_stem.values())
    folders, pictures = find_stills(videos, images=data_dir / "images")
    for path, stem in chain(((path, path.name) for path in folders), ((path, path.stem) for path in pictures)):
        if _is_picture(path) and stem not in files and not how.pictures:
            continue  # whatever pictures lie about
        clip = _captioned(path, files.get(stem), how.encoding)
        if stem in by_stem:
            clip = Clip(path, (), BESIDE_A_VIDEO)
        elif _is_picture(path) and not how.pictures:
            clip = Clip(path, (), PICTURE_LEFT_OUT)
        elif clip.problem == NO_CAPTION and stem not in prepared:
            clip = Clip(path, (), STILLS_WITHOUT_CAPTION)
        by_stem.setdefault(stem, clip)
        row = prepared.get(stem, {})
        clips.append(replace(clip, fps=row.get("fps", how.stills_fps), source=row.get("source")))
    if not clips:
        raise MissingData(
            f"{printable(videos)}: no video files in it; {LAYOUT} (python video_dataset.py writes a demo)"
        )
    clips.sort(key=lambda clip: natural_key(str(clip.path)))
    return clips, sorted(files[stem].name for stem in files.keys() - by_stem.keys())


def _is_picture(path: Path) -> bool:
    return is_still(path) and not path.is_dir()


def _caption_files(folder: Path) -> dict[str, Path]:
    files = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.lower().endswith(".txt") and not entry.name.startswith("."):
                files[entry.name[:-4]] = Path(entry.path)
    return files


def _captioned(path: Path, file: Path | None, encoding: str) -> Clip:
    try:
        status = file and file.stat()
    except OSError:  # broken link
        status = None
    if status is None or not stat.S_ISREG(status.st_mode):
        return Clip(path, (), NO_CAPTION)
    if status.st_size > MAX_CAPTION_BYTES:
        return Clip(path, (), "caption file over 64 KB")
    try:
        text = read_caption(file, encoding)
    except CaptionError as error:
        return Clip(path, (), str(error), fatal=True)
    except OSError as error:
        return Clip(path, (), f"{printable(file)}: {error.strerror}; make it readable", fatal=True)
    return Clip(path, (text,), "") if text else Clip(path, (), EMPTY_CAPTION)


def captions_of(videos: list[Path], video_dir: Path, where: Path | None, how: FolderFormat) -> list[tuple[str, ...]]:
    """The captions of each video, () without any.

    where: a folder of <stem>.txt, or a table; None: beside the videos, in captions/ beside videos/, or a table in
    video_dir. Raises DataError for a table or an encoding that cannot be read, and if there is no caption at all.
    """
    check_encoding(how.encoding)
    beside = video_dir.parent / "captions" if video_dir.name == "videos" else None
    table = where if where and where.is_file() else None
    if where is None and not (beside and beside.is_dir()):
        table = find_table(video_dir)
    if table:
        rows = read_table(table, how.encoding, how.video_column, how.caption_column)
        by_path = {os.path.abspath(path): texts for path, texts in rows.items()}
        names = Counter(path.name for path in rows)
        by_name = {path.name: texts for path, texts in rows.items() if names[path.name] == 1}
        found = [by_path.get(os.path.abspath(path), by_name.get(path.name, ())) for path in videos]
    else:
        folder = where or (beside if beside and beside.is_dir() else None)
        stems = Counter(path.stem if folder else path.with_suffix("") for path in videos)
        if twice := next((stem for stem, count in stems.items() if count > 1), None):
            raise DataError(f"--captions: several videos would share the caption {printable(twice)}.txt; rename them")
        files = {parent: _caption_files(folder or parent) for parent in {path.parent for path in videos}}
        clips = [_captioned(path, files[path.parent].get(path.stem), how.encoding) for path in videos]
        if fatal := next((clip for clip in clips if clip.fatal), None):
            raise CaptionError(fatal.problem)
        found = [clip.texts for clip in clips]
    if not any(found):
        raise DataError(
            f"--captions: none of the videos in {printable(video_dir)} has a caption in "
            f"{printable(table or where or 'captions/, beside it or in a table')}; name their folder or table"
        )
    return found
