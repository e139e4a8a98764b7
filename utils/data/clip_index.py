"""Which clips of a data folder are usable: its videos, the captions that belong to them, and what is wrong with either.

A data folder holds videos/<stem>.<any video extension> and captions/<stem>.txt, or both side by side, or a table
(caption_table.py). What is learned about the videos is kept in <data_dir>/.video_index.json: a file is opened once.
"""

import json
import os
import stat
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from utils.cli import printable
from utils.data.captions import MAX_CAPTION_BYTES, check_encoding, read_caption
from utils.data.errors import CaptionError, DataError, MissingData
from utils.files import write_text
from utils.video.frame_windows import too_short, window_starts

if TYPE_CHECKING:
    from utils.decoding.video_info import VideoInfo

# NumPy and PyAV come with utils.decoding, which is imported where it is used: --help answers at once.

SAVE_EVERY_S = 30
INDEX_FILE, INDEX_VERSION = ".video_index.json", 2
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


class VideoIndex:
    """probe_video with a memory: <data_dir>/.video_index.json, keyed by path, size and modification time.

    decode: whether every frame is to be decoded once; otherwise frames are counted where that can be trusted.
    Failures are not remembered (a newer reader may succeed). Without write permission it just forgets.
    """

    def __init__(self, data_dir: Path, decode: bool):
        from utils.decoding.video_info import VideoInfo

        self.file, self.decode, self.infos, self.changed = data_dir / INDEX_FILE, decode, {}, False
        try:
            stored = json.loads(self.file.read_text(encoding="utf-8"))
            if stored["version"] == INDEX_VERSION:
                for key, (size, mtime_ns, info) in stored["videos"].items():
                    self.infos[key] = (size, mtime_ns, VideoInfo(**info))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none yet, or damaged: probe again
            self.infos = {}

    def probe(self, path: Path) -> "VideoInfo | str":
        """VideoInfo, or the reason why the file is no usable video."""
        from utils.decoding.probe import probe_video
        from utils.decoding.video_info import VideoError

        key = os.path.abspath(path)
        try:
            status = os.stat(path)
            known = self.infos.get(key)
            if known and known[:2] == (status.st_size, status.st_mtime_ns) and (known[2].verified or not self.decode):
                return known[2]
            info = probe_video(path, decode=self.decode)
        except VideoError as error:
            return str(error)
        except FileNotFoundError:
            return "broken link" if os.path.islink(path) else "no such file"
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        self.infos[key] = (status.st_size, status.st_mtime_ns, info)
        self.changed = True
        return info

    def save(self) -> None:
        if not self.changed:
            return
        videos = {key: (size, mtime_ns, asdict(info)) for key, (size, mtime_ns, info) in self.infos.items()}
        try:
            write_text(self.file, json.dumps({"version": INDEX_VERSION, "videos": videos}))
        except OSError:
            return
        self.changed = False


def probe_all(data_dir: Path, paths: list[Path], decode: bool = False) -> Iterator["VideoInfo | str"]:
    """Yield VideoInfo or reason for each path in order, probing in threads (FFmpeg works without the GIL).

    decode: whether every frame is to be decoded once. Stops early, after at most one chunk too many, when the caller
    stops asking.
    """
    from tqdm import tqdm

    index = VideoIndex(data_dir, decode)
    threads, saved = min(8, os.cpu_count() or 1), time.monotonic()
    try:
        with (
            ThreadPoolExecutor(threads) as pool,
            tqdm(total=len(paths), desc="indexing", unit="video", disable=None) as bar,
        ):
            for first in range(0, len(paths), 16 * threads):
                for result in pool.map(index.probe, paths[first : first + 16 * threads]):
                    bar.update()
                    yield result
                if time.monotonic() - saved > SAVE_EVERY_S:  # a killed pass keeps what it learned
                    index.save()
                    saved = time.monotonic()
    finally:
        index.save()  # an interrupted pass keeps what it learned


def usable_clips(
    data_dir: Path,
    num_frames: int,
    target_fps: float | None,
    short_clips: str,
    missing_caption: str,
    encoding: str,
    max_samples: int | None,
    columns: tuple[str | None, str | None] = (None, None),
) -> tuple[list[tuple["VideoInfo", tuple[str, ...]]], dict]:
    """The first max_samples clips that training can use, as (VideoInfo, captions), and a report of what was skipped.

    Raises what find_clips raises, CaptionError for text in another encoding, and DataError for captions missing under
    missing_caption "error" or if no clip is left.
    """
    clips, orphans = find_clips(data_dir, encoding, columns)
    if fatal := next((clip for clip in clips if clip.fatal), None):
        raise CaptionError(fatal.problem)
    tolerated = ("", NO_CAPTION, EMPTY_CAPTION) if missing_caption == "empty" else ("",)
    skipped, notes = defaultdict(list), {}
    for clip in clips:
        if clip.problem not in tolerated:
            skipped[clip.problem].append(clip.path.name)
    if missing_caption == "error" and skipped.keys() & {NO_CAPTION, EMPTY_CAPTION}:
        found = "; ".join(listed(skipped[why], why) for why in (NO_CAPTION, EMPTY_CAPTION) if skipped[why])
        raise DataError(
            f"{printable(data_dir)}: {found}; write captions/<name>.txt or pass --missing_caption skip|empty"
        )
    items, longest = [], 0
    usable = [clip for clip in clips if clip.problem in tolerated]
    results = probe_all(data_dir, [clip.path for clip in usable])
    for clip, info in zip(usable, results, strict=False):
        if isinstance(info, str):
            skipped[info].append(clip.path.name)
            continue
        if info.notes:
            notes[clip.path.name] = list(info.notes)
        if short_clips == "skip" and not len(window_starts(info, num_frames, target_fps)):
            longest = max(longest, info.frames)
            skipped[too_short(num_frames, target_fps)].append(clip.path.name)
            continue
        items.append((info, clip.texts or ("",)))
        if len(items) == max_samples:
            break
    results.close()  # saves the index when max_samples ended the loop
    report = {
        "data_dir": str(data_dir),
        "ok": len(items),
        "skipped": dict(skipped),
        "notes": notes,
        "captions_without_video": orphans,
    }
    if not items:
        why = "; ".join(listed(names, reason) for reason, names in skipped.items())
        remedy = "re-encode them with ffmpeg or replace them"
        if longest:
            remedy = f"lower --num_frames (the longest has {longest}) or pass --short_clips pad|loop"
        raise DataError(f"{printable(data_dir)}: none of {len(clips)} videos is usable: {why}; {remedy}")
    return items, report


def by_remark(notes: dict[str, list[str]]) -> dict[str, list[str]]:
    """{name: [remarks]} -> {remark: [names]}."""
    names = defaultdict(list)
    for name, remarks in notes.items():
        for remark in remarks:
            names[remark].append(name)
    return names


def listed(names: list[str], reason: str) -> str:
    """'3 x reason: a.mp4, b.mp4, c.mp4', the first five names."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)} x {printable(reason)}: {', '.join(map(printable, names[:5]))}{more}"
