"""The clips of a data folder: its videos with the captions that belong to them.

A data folder holds videos/<stem>.<any video extension> and captions/<stem>.txt, or both side by side, or a table
(caption_table.py).
"""

import os
import stat
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from utils.cli import printable
from utils.data.captions import MAX_CAPTION_BYTES, check_encoding, read_caption
from utils.data.errors import CaptionError, DataError, MissingData

NO_CAPTION, EMPTY_CAPTION = "no caption", "empty caption"
LAYOUT = (
    "expected <data_dir>/videos/*.mp4 with <data_dir>/captions/<same name>.txt, or clip.mp4 beside clip.txt, "
    "or a table, metadata.csv say"
)


@dataclass(frozen=True)
class Clip:
    """A video file with its captions, or with the reason why it has none."""

    path: Path
    texts: tuple[str, ...]
    problem: str = ""
    fatal: bool = False  # a caption that cannot be decoded stops training: skipping it would hide a wrong encoding


def find_clips(
    data_dir: Path, encoding: str, columns: tuple[str | None, str | None] = (None, None)
) -> tuple[list[Clip], list[str]]:
    """Every video of data_dir in natural order with its captions, and the names of captions without a video.

    columns: of a table, for the file and for the caption. Raises MissingData for missing folders or no videos,
    DataError for two videos that share a caption or a table that cannot be read.
    """
    from utils.data.caption_table import find_table, read_table
    from utils.data.find_videos import find_videos

    check_encoding(encoding)
    videos, captions = data_dir / "videos", data_dir / "captions"
    if not data_dir.is_dir():
        raise MissingData(f"{printable(data_dir)}: no such folder; {LAYOUT} (python video_dataset.py writes a demo)")
    if not captions.is_dir() and (table := find_table(data_dir)):
        rows = read_table(table, encoding, *columns)
        return [Clip(path, texts, "" if texts else NO_CAPTION) for path, texts in rows.items()], []
    if any(columns):
        raise DataError(f"{printable(data_dir)}: --video_column and --caption_column need a table, there is none in it")
    if not videos.is_dir():
        videos = data_dir
    if not captions.is_dir():
        captions = videos  # each beside its video
    paths = find_videos(videos)
    if not paths:
        raise MissingData(
            f"{printable(videos)}: no video files in it; {LAYOUT} (python video_dataset.py writes a demo)"
        )
    by_stem = {}
    for path in paths:
        other = by_stem.setdefault(path.stem, path)
        if other is not path:
            raise DataError(
                f"{printable(other.name)} and {printable(path.name)} in {printable(videos)} would share one caption; "
                "rename or remove one of them"
            )
    files = {}
    with os.scandir(captions) if captions.is_dir() else nullcontext(()) as entries:
        for entry in entries:
            if entry.name.lower().endswith(".txt") and not entry.name.startswith("."):
                files[entry.name[:-4]] = Path(entry.path)
    clips = [_captioned(path, files.get(path.stem), encoding) for path in paths]
    return clips, sorted(files[stem].name for stem in files.keys() - by_stem.keys())


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
