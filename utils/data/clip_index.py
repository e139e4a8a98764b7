"""Which clips of a data folder are usable, and what is wrong with the others.

What is learned about the videos is kept in <data_dir>/.video_index.json: a file is opened once.
"""

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from utils.cli import printable
from utils.data.errors import CaptionError, DataError
from utils.data.find_clips import EMPTY_CAPTION, NO_CAPTION, find_clips
from utils.files import write_text
from utils.video.frame_windows import too_short, window_starts

if TYPE_CHECKING:
    from utils.decoding.video_info import VideoInfo

# NumPy and PyAV come with utils.decoding, which is imported where it is used: --help answers at once.

SAVE_EVERY_S = 30
INDEX_FILE, INDEX_VERSION = ".video_index.json", 2


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
