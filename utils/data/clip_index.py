"""Which clips of a data folder are usable, and what is wrong with the others.

What is learned about the videos is kept in <data_dir>/.video_index.json: a file is opened once.
"""

import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from utils.arguments.buckets import Bucket
from utils.cli import printable
from utils.data.errors import CaptionError, DataError
from utils.data.find_clips import (
    EMPTY_CAPTION,
    NO_CAPTION,
    PICTURE_LEFT_OUT,
    STILLS_WITHOUT_CAPTION,
    Clip,
    FolderFormat,
    find_clips,
)
from utils.decoding.video_info import STILLS, is_picture
from utils.files import write_text
from utils.video.frame_windows import choose_bucket, too_short, window_starts

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

    def clip(self, clip: Clip) -> "VideoInfo | str":
        """The same of a clip of find_clips."""
        info = self.probe(clip.path)
        of_stills = not isinstance(info, str) and info.codec == STILLS
        return replace(info, fps=clip.fps) if of_stills and clip.fps else info

    def save(self) -> None:
        if not self.changed:
            return
        videos = {key: (size, mtime_ns, asdict(info)) for key, (size, mtime_ns, info) in self.infos.items()}
        try:
            write_text(self.file, json.dumps({"version": INDEX_VERSION, "videos": videos}))
        except OSError:
            return
        self.changed = False


def probe_all(data_dir: Path, clips: list[Clip], decode: bool = False) -> Iterator["VideoInfo | str"]:
    """Yield VideoInfo or reason for each clip in order, probing in threads (FFmpeg works without the GIL).

    decode: whether every frame is to be decoded once. Stops early, after at most one chunk too many, when the caller
    stops asking.
    """
    from tqdm import tqdm

    index = VideoIndex(data_dir, decode)
    threads, saved = min(8, os.cpu_count() or 1), time.monotonic()
    try:
        with (
            ThreadPoolExecutor(threads) as pool,
            tqdm(total=len(clips), desc="indexing", unit="video", disable=None) as bar,
        ):
            for first in range(0, len(clips), 16 * threads):
                for result in pool.map(index.clip, clips[first : first + 16 * threads]):
                    bar.update()
                    yield result
                if time.monotonic() - saved > SAVE_EVERY_S:  # a killed pass keeps what it learned
                    index.save()
                    saved = time.monotonic()
    finally:
        index.save()  # an interrupted pass keeps what it learned


def usable_clips(
    data_dir: Path,
    how: FolderFormat,
    num_frames: int,
    target_fps: float | None,
    short_clips: str,
    missing_caption: str,
    max_samples: int | None,
) -> tuple[list[tuple["VideoInfo", tuple[str, ...]]], dict]:
    """The first max_samples clips that training can use, as (VideoInfo, captions), and a report of what was skipped.

    num_frames: that a clip needs at least. Raises what find_clips raises, CaptionError for text in another encoding,
    and DataError for captions missing under missing_caption "error" or if no clip is left.
    """
    clips, orphans = find_clips(data_dir, how)
    if fatal := next((clip for clip in clips if clip.fatal), None):
        raise CaptionError(fatal.problem)
    tolerated = ("", NO_CAPTION, EMPTY_CAPTION, STILLS_WITHOUT_CAPTION) if missing_caption == "empty" else ("",)
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
    results = probe_all(data_dir, usable)
    for clip, info in zip(usable, results, strict=False):
        if isinstance(info, str):
            skipped[info].append(clip.path.name)
            continue
        if info.notes:
            notes[clip.path.name] = list(info.notes)
        if short_clips == "skip" and is_too_short(info, num_frames, target_fps):
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
        "buckets": {},
    }
    if not items:
        why = "; ".join(listed(names, reason) for reason, names in skipped.items())
        remedy = "re-encode them with ffmpeg or replace them"
        if longest:
            remedy = f"lower --num_frames (the longest has {longest}) or pass --short_clips pad|loop"
        elif PICTURE_LEFT_OUT in skipped:
            remedy = "--image_share 1 trains on pictures"
        raise DataError(f"{printable(data_dir)}: none of {len(clips)} videos is usable: {why}; {remedy}")
    return items, report


def is_too_short(info: "VideoInfo", num_frames: int, target_fps: float | None) -> bool:
    """Whether a clip that is no picture has no window of num_frames."""
    return not is_picture(info) and not len(window_starts(info, num_frames, target_fps))


def bucket_counts(infos: Iterable["VideoInfo"], buckets: Sequence[Bucket], target_fps: float | None) -> dict[str, int]:
    """{bucket: clips in it}, of those that hold any."""
    return dict(Counter(str(choose_bucket(info, buckets, target_fps)) for info in infos).most_common())


def buckets_line(counts: dict[str, int]) -> str:
    return "buckets: " + ", ".join(f"{count} x {name}" for name, count in counts.items())


def print_report(data_dir: Path, report: dict) -> None:
    """What `usable_clips` found, on stderr; nothing if all clips are usable and there is nothing to say of them."""
    lines = [listed(names, reason) for reason, names in report["skipped"].items()]
    if lines:
        lines = [f"{printable(data_dir)}: {report['ok']} clips usable, skipped:", *lines]
    if orphans := report["captions_without_video"]:
        lines.append(listed(orphans, "caption without a video"))
    lines += [listed(names, f"note: {note}") for note, names in by_remark(report["notes"]).items()]
    if report["buckets"]:
        lines.append(buckets_line(report["buckets"]))
    if lines:
        print("\n  ".join(lines), file=sys.stderr)


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
