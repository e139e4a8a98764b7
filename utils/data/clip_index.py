"""Which clips of a data folder are usable, and what is wrong with the others.

What is learned about the videos is kept in <data_dir>/.video_index.json: a file is opened once.
"""

import hashlib
import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np

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
from utils.decoding.video_info import STILLS, Section, is_picture
from utils.files import write_text
from utils.video.frame_windows import choose_bucket, too_short, window_starts
from utils.workers import Worker

if TYPE_CHECKING:
    from utils.decoding.video_info import VideoInfo

# PyAV comes with utils.decoding, which is imported where it is used: --help answers at once.

SAVE_EVERY_S = 30
OTHER_RATE = 0.01  # of the frames per second of an episode: as if its video were another one
MANY = 256  # clips, from which on processes are worth their start
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

    def known(self, clip: Clip) -> "VideoInfo | None":
        """What is remembered of a clip that has not changed since."""
        known = self.infos.get(os.path.abspath(clip.path))
        if not known or not (known[2].verified or not self.decode) or known[2].section != clip.section:
            return None
        try:
            return known[2] if known[:2] == _stamp(known[2].path, clip.section) else None
        except OSError:
            return None

    def learn(self, clip: Clip, stamp: Sequence[int], info: dict) -> "VideoInfo":
        from utils.decoding.video_info import VideoInfo

        known = (*stamp, VideoInfo(**info))
        self.infos[os.path.abspath(clip.path)] = known
        self.changed = True
        return known[2]

    def save(self) -> None:
        if not self.changed:
            return
        videos = {key: (size, mtime_ns, asdict(info)) for key, (size, mtime_ns, info) in self.infos.items()}
        try:
            write_text(self.file, json.dumps({"version": INDEX_VERSION, "videos": videos}))
        except OSError:
            return
        self.changed = False


def _stamp(path: str, section: Section | None) -> tuple[int, int]:
    """What changes when a file does."""
    status = os.stat(section.file if section else path)
    return status.st_size, status.st_mtime_ns


def probe_plainly(path: str, section: list | None, decode: bool) -> list:
    """[what changes when the file does, VideoInfo as a dict or the reason why it is no usable video]."""
    from utils.decoding.probe import probe_video
    from utils.decoding.video_info import VideoError

    section, stamp = Section(*section) if section else None, (0, 0)
    try:
        stamp = _stamp(path, section)
        return [stamp, asdict(probe_video(path, decode=decode, section=section))]
    except VideoError as error:
        return [stamp, str(error)]
    except FileNotFoundError:
        return [stamp, "broken link" if os.path.islink(path) else "no such file"]
    except OSError as error:
        return [stamp, f"cannot be read: {error.strerror}"]


def probe_all(
    data_dir: Path, clips: list[Clip], decode: bool = False, wanted: int | None = None
) -> Iterator["VideoInfo | str"]:
    """Yield VideoInfo or reason for each clip in order; many are probed by several processes, few in threads.

    decode: whether every frame is to be decoded once. wanted: how many usable ones the caller will ask for. Stops
    early, after at most one chunk too many, when the caller stops asking. Raises UserError if a process dies.
    """
    from tqdm import tqdm

    index, saved = VideoIndex(data_dir, decode), time.monotonic()
    workers = min(8, os.cpu_count() or 1)
    with ExitStack() as stack:
        stack.callback(index.save)  # an interrupted pass keeps what it learned
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        bar = stack.enter_context(tqdm(total=len(clips), desc="indexing", unit="video", disable=None))
        idle: SimpleQueue[Callable] = SimpleQueue()

        def probe(clip: Clip) -> "VideoInfo | str":
            if clip.views:
                return _episode(clip, [whole[view.file] for view in clip.views])
            if known := index.known(clip):
                return _at_its_rate(clip, known)
            call = idle.get()
            try:
                stamp, found = call(os.path.abspath(clip.path), clip.section, decode)
            finally:
                idle.put(call)
            return found if isinstance(found, str) else _at_its_rate(clip, index.learn(clip, stamp, found))

        many = min(len(clips), wanted or len(clips)) >= MANY and not all(map(index.known, clips[:MANY]))
        for _ in range(workers):  # FFmpeg works without the GIL, but Python's part of a short file is the larger one
            idle.put(stack.enter_context(closing(Worker(__name__, "probe_plainly"))) if many else probe_plainly)
        whole: dict[Path, VideoInfo | str] = {}  # of each longer video what it holds
        for first in range(0, len(clips), 16 * workers):
            some = clips[first : first + 16 * workers]
            files = [*dict.fromkeys(view.file for clip in some for view in clip.views if view.file not in whole)]
            whole.update(zip(files, pool.map(probe, [Clip(file, ()) for file in files]), strict=True))
            for result in pool.map(probe, some):
                bar.update()
                yield result
            if time.monotonic() - saved > SAVE_EVERY_S:  # a killed pass keeps what it learned
                index.save()
                saved = time.monotonic()


def _episode(clip: Clip, found: list["VideoInfo | str"]) -> "VideoInfo | str":
    """Its frames of each longer video, side by side; or the reason why they cannot be had."""
    from utils.decoding.video_info import VideoError, part_of, side_by_side

    if wrong := next((each for each in found if isinstance(each, str)), None):
        return wrong
    for info, view in zip(found, clip.views, strict=True):
        if abs(info.fps - view.fps) > OTHER_RATE * view.fps:  # frames and rows would drift apart
            return f"its video has {info.fps:g} frames per second, its dataset {view.fps:g}"
    path = os.path.abspath(clip.path)
    try:
        parts = [
            part_of(info, path, round(view.start * info.fps), view.frames)
            for info, view in zip(found, clip.views, strict=True)
        ]
        return parts[0] if len(parts) == 1 else side_by_side(parts, path)
    except VideoError as error:
        return str(error)


def _at_its_rate(clip: Clip, info: "VideoInfo") -> "VideoInfo":
    """Pictures have no rate of their own."""
    return replace(info, fps=clip.fps) if info.codec == STILLS and clip.fps else info


def usable_clips(
    data_dir: Path,
    how: FolderFormat,
    num_frames: int,
    target_fps: float | None,
    short_clips: str,
    missing_caption: str,
    max_samples: int | None,
) -> tuple[list[tuple["VideoInfo", tuple[str, ...]]], list[str], dict]:
    """The first max_samples clips that training can use, as (VideoInfo, captions), the video that each was cut from,
    and a report of what was skipped.

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
            skipped[clip.problem].append(clip.name)
    if missing_caption == "error" and skipped.keys() & {NO_CAPTION, EMPTY_CAPTION}:
        found = "; ".join(listed(skipped[why], why) for why in (NO_CAPTION, EMPTY_CAPTION) if skipped[why])
        raise DataError(
            f"{printable(data_dir)}: {found}; write captions/<name>.txt or pass --missing_caption skip|empty"
        )
    items, sources, longest = [], [], 0
    usable = [clip for clip in clips if clip.problem in tolerated]
    results = probe_all(data_dir, usable, wanted=max_samples)
    for clip, info in zip(usable, results, strict=False):
        if isinstance(info, str):
            skipped[info].append(clip.name)
            continue
        if info.notes:
            notes[clip.name] = list(info.notes)
        if short_clips == "skip" and is_too_short(info, num_frames, target_fps):
            longest = max(longest, info.frames)
            skipped[too_short(num_frames, target_fps)].append(clip.name)
            continue
        items.append((info, clip.texts or ("",)))
        sources.append(clip.source or info.path)
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
    return items, sources, report


def validation_clips(
    infos: list["VideoInfo"], sources: list[str], val_fraction: float, seed: int
) -> tuple[set[int], bool]:
    """(clips that validate, whether they train as well, which is so if there is only one).

    They are all that were cut from a share of the videos, so that none has a neighbour in training; clips of one video
    alone are taken apart. Pictures validate only where there are no videos.
    """
    clips = [n for n, info in enumerate(infos) if not is_picture(info)] or range(len(infos))
    groups = defaultdict(list)
    for n in clips:
        groups[sources[n]].append(n)
    groups = list(groups.values()) if len(groups) > 1 else [[n] for n in clips]
    if len(groups) == 1:
        return set(clips), True
    count = min(max(1, round(val_fraction * len(groups))), len(groups) - 1)
    chosen = np.random.default_rng([seed, 0x5E7]).permutation(len(groups))[:count]
    return {n for group in chosen for n in groups[group]}, False


def is_too_short(info: "VideoInfo", num_frames: int, target_fps: float | None) -> bool:
    """Whether a clip that is no picture has no window of num_frames."""
    return not is_picture(info) and not len(window_starts(info, num_frames, target_fps))


def clip_digests(data_dir: Path, items: list[tuple["VideoInfo", tuple[str, ...]]]) -> dict[str, str]:
    """{name: digest of size in bytes, frames and captions} of the clips, in order; names that are shared come with
    their folders."""
    names, rows = Counter(Path(info.path).name for info, _ in items), {}
    for info, texts in items:
        name = Path(info.path).name
        name = name if names[name] == 1 else os.path.relpath(info.path, data_dir)
        rows[name] = json.dumps([info.bytes, info.frames, *texts])
    return {name: hashlib.sha256(row.encode()).hexdigest()[:16] for name, row in rows.items()}


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
