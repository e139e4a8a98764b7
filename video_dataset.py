"""Video-caption pairs: the dataset class that training reads, a demo dataset of moving shapes, and a data check.

    python video_dataset.py                            # writes ./demo_video_data: 1500 clips of moving shapes
    python video_dataset.py --check my_videos          # reports what is wrong with your own folder

A data folder holds videos/<stem>.<any video extension> and captions/<stem>.txt.
"""

import argparse
import codecs
import contextlib
import hashlib
import io
import json
import math
import os
import re
import stat
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils import shapes

if TYPE_CHECKING:
    from utils.video_io import VideoInfo

# torch, OpenCV and PyAV are imported where they are used: --help answers at once, and a Dataset needs no base class.


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    os.replace(temporary, path)


def printable(text: object) -> str:
    """text on one line, with control characters escaped, so that a file name cannot drive the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


# -------------------------------------------------------------------------------------------------------- captions

MAX_CAPTION_BYTES = 64 * 1024


class CaptionError(ValueError):
    """A caption file that is no text in the given encoding; the message is one line with file, byte and remedy."""


def read_caption(path: Path, encoding: str = "utf-8-sig") -> str:
    """The file's text on one line: lines and runs of blanks become one space, NUL and byte order marks vanish.

    A byte order mark overrides `encoding`. Raises CaptionError naming file, byte and remedy.
    """
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif data.startswith(codecs.BOM_UTF8):
        encoding = "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeError as error:
        where = getattr(error, "start", 0)
        name = "UTF-8" if encoding == "utf-8-sig" else encoding
        remedy = "the encoding it was written in" if encoding == "gb18030" else "gb18030, or whatever it was written in"
        raise CaptionError(
            f"{printable(path)}: byte {where} (0x{data[where]:02x}) is not {name} text; "
            f"save it as UTF-8 or pass --caption_encoding {remedy}"
        ) from None
    return " ".join(text.replace("\0", "").split())


# What a mirror does to words. (?<![A-Za-z]) rather than \b, so that the "left" of left_arrow is a word as well.
MIRRORED = {"left": "right", "leftward": "rightward", "leftwards": "rightwards", "leftmost": "rightmost"}
MIRRORED |= {right: left for left, right in MIRRORED.items()}
MIRRORED |= {f"{start}clockwise": "clockwise" for start in ("counter", "anti", "counter-", "anti-")}
MIRRORED |= {"clockwise": "counterclockwise", "左": "右", "右": "左", "顺时针": "逆时针", "逆时针": "顺时针"}
MIRRORED_WORD = re.compile(
    r"(?<![A-Za-z])(?:(?:counter|anti)-?clockwise|clockwise|(?:left|right)(?:wards?|most)?)(?![A-Za-z])|[左右]|[顺逆]时针",
    re.IGNORECASE,
)
# Captions that no exchange of words keeps true: "left" or "right" in another sense, or writing in the picture. Too wide
# on purpose: a clip that is not flipped costs little, a false caption teaches a falsehood.
NOT_MIRRORED = re.compile(
    r"""(?<![A-Za-z])(?:
        right\s+(?:away|now|after|before|behind|here|there|next|above|below|beside|under|over|on|in|into|through|at|by
            |as|when|where|from|back|off|out|down|up|along|across|against|angles?|angled|triangles?|click|way|one|time
            |place|moment|answer|choice|person|amount|thing)
        | right-(?:angled?|click|wing\w*) | left-wing\w*
        | (?:all|just|that's|that’s|is|are|was|were|be|been|human|civil|animal|equal|get|got|do|does|doing)\s+right
        | rights | leaves | leaving
        | left\s+(?:behind|alone|over|open|out|off|on|in|by|for|with|without|after|before|when|unattended|the|a|an|his
            |her|its|their|my|your|our|to\s+(?!right)\w+\s+(?:\w+\s+)?(?:own|themselves|itself|himself|herself))
        | (?:have|has|had|having|just|is|are|was|were|be|been|being|get|gets|got|he|she|they|who|nothing|none|few|little
            |much|many|time|minutes?|seconds?|hours?|days?|only|\d+)\s+left
        | texts? | signs? | signage | signposts? | signboards? | signatures? | letters? | lettering | words? | numbers?
        | numerals? | digits? | logos? | writing | writes? | written | wrote | handwriting | inscriptions? | inscribed
        | captions? | captioned | subtitles? | subtitled | titles? | titled | labels? | labell?ed | posters? | banners?
        | billboards? | newspapers? | scoreboards? | graffiti | alphabets? | fonts? | watermarks? | barcodes?
        | qr\s+codes? | says? | saying | reads? | spells? | spelling | (?:license|licence|number)\s+plates? | clocks?
        | clock-?faces? | wristwatch(?:es)? | calendars? | maps? | keyboards? | menus?
        | gauche | droite | izquierd[ao]s? | derech[ao]s? | links | rechts | sinistra | destra | esquerd[ao]
        | direit[ao]
        )(?![A-Za-z])
        | ["“”「」『』《》] | 左右 | [字钟鐘表写寫時计計] | 时针(?<![顺逆]时针) | 标志 | 標誌 | 招牌 | 标语 | 车牌
        | 車牌 | 商标 | 路牌 | 地图 | 왼 | 오른 | лев | прав | слева | справа | влево | вправо""",
    re.IGNORECASE | re.VERBOSE,
)


def swap_left_right(text: str) -> str | None:
    """The caption of the mirrored video, or None if there is none that is surely true.

    left and right (leftwards, rightmost, left-hand ...), clockwise and counterclockwise, 左 and 右 change places and
    keep their capitals.
    """
    if NOT_MIRRORED.search(text):
        return None

    def mirror(match: re.Match) -> str:
        word = match.group()
        other = MIRRORED[word.lower()]
        return other.upper() if len(word) > 1 and word.isupper() else other.capitalize() if word[0].isupper() else other

    return MIRRORED_WORD.sub(mirror, text)


# ----------------------------------------------------------------------------------------------------------- index

INDEX_FILE, INDEX_VERSION = ".video_index.json", 1
NO_CAPTION, EMPTY_CAPTION = "no caption", "empty caption"


@dataclass(frozen=True)
class Clip:
    """A video file with its caption, or with the reason why it has none."""

    path: Path
    text: str
    problem: str = ""
    fatal: bool = False  # a caption that cannot be decoded stops training: skipping it would hide a wrong encoding


def find_clips(data_dir: Path, encoding: str) -> tuple[list[Clip], list[str]]:
    """Every video of data_dir in natural order with its caption, and the names of captions without a video.

    Raises FileNotFoundError for missing folders or no videos, ValueError for two videos that share a caption.
    """
    from utils.video_io import find_videos

    videos, captions = data_dir / "videos", data_dir / "captions"
    layout = "expected <data_dir>/videos/*.mp4 with <data_dir>/captions/<same name>.txt"
    for folder in (data_dir, videos):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{printable(folder)}: no such folder; {layout} (python video_dataset.py writes a demo)"
            )
    paths = find_videos(videos)
    if not paths:
        raise FileNotFoundError(f"{printable(videos)}: no video files in it; {layout}")
    by_stem = {}
    for path in paths:
        other = by_stem.setdefault(path.stem, path)
        if other is not path:
            raise ValueError(
                f"{printable(other.name)} and {printable(path.name)} in {printable(videos)} would share one caption; "
                "rename or remove one of them"
            )
    files = {}
    if captions.is_dir():
        with os.scandir(captions) as entries:
            for entry in entries:
                if entry.name.lower().endswith(".txt") and not entry.name.startswith("."):
                    files[entry.name[:-4]] = Path(entry.path)

    def caption_of(path: Path) -> Clip:
        file = files.get(path.stem)
        try:
            status = file and file.stat()
        except OSError:  # broken link
            status = None
        if status is None or not stat.S_ISREG(status.st_mode):
            return Clip(path, "", NO_CAPTION)
        if status.st_size > MAX_CAPTION_BYTES:
            return Clip(path, "", "caption file over 64 KB")
        try:
            text = read_caption(file, encoding)
        except CaptionError as error:
            return Clip(path, "", str(error), fatal=True)
        except OSError as error:
            return Clip(path, "", f"{printable(file)}: {error.strerror}; make it readable", fatal=True)
        return Clip(path, text, "" if text else EMPTY_CAPTION)

    return [caption_of(path) for path in paths], sorted(files[stem].name for stem in files.keys() - by_stem.keys())


class VideoIndex:
    """probe_video with a memory: <data_dir>/.video_index.json, keyed by path, size and modification time.

    Failures are not remembered (a newer reader may succeed). Without write permission it just forgets.
    """

    def __init__(self, data_dir: Path):
        from utils.video_io import VideoInfo

        self.file, self.infos, self.changed = data_dir / INDEX_FILE, {}, False
        try:
            stored = json.loads(self.file.read_text(encoding="utf-8"))
            if stored["version"] == INDEX_VERSION:
                for key, (size, mtime_ns, info) in stored["videos"].items():
                    self.infos[key] = (size, mtime_ns, VideoInfo(**info))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none yet, or damaged: probe again
            self.infos = {}

    def probe(self, path: Path) -> "VideoInfo | str":
        """VideoInfo, or the reason why the file is no usable video."""
        from utils.video_io import VideoError, probe_video

        key = os.path.abspath(path)
        try:
            status = os.stat(path)
            known = self.infos.get(key)
            if known and known[:2] == (status.st_size, status.st_mtime_ns):
                return known[2]
            info = probe_video(path)
        except VideoError as error:
            return str(error)
        except FileNotFoundError:
            return "broken link"
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


def probe_all(data_dir: Path, paths: list[Path]) -> Iterator["VideoInfo | str"]:
    """Yield VideoInfo or reason for each path in order, probing in threads (OpenCV releases the GIL).

    Stops early, after at most one chunk too many, when the caller stops asking.
    """
    from tqdm import tqdm

    index = VideoIndex(data_dir)
    threads = min(8, os.cpu_count() or 1)
    try:
        with (
            ThreadPoolExecutor(threads) as pool,
            tqdm(total=len(paths), desc="indexing", unit="video", disable=None) as bar,
        ):
            for first in range(0, len(paths), 16 * threads):
                for result in pool.map(index.probe, paths[first : first + 16 * threads]):
                    bar.update()
                    yield result
    finally:
        index.save()  # an interrupted pass keeps what it learned


# --------------------------------------------------------------------------------------- which frames of a clip


def timeline(info: "VideoInfo", target_fps: float | None) -> tuple[np.ndarray, float, float, list[tuple[int, int]]]:
    """(times of the frames, their usual interval, step between wanted frames, gapless segments [first, end)).

    In seconds; in frames if target_fps is None, that is if every frame is wanted.
    """
    bounds = [0, *sorted(info.gaps), info.frames]
    segments = [(a, b) for a, b in pairwise(bounds) if a < b]
    if target_fps is None:
        return np.arange(info.frames, dtype=float), 1.0, 1.0, segments
    times = np.arange(info.frames) / info.fps if info.times is None else np.array(info.times)
    interval = float(np.median(np.diff(times))) if len(times) > 1 else 1 / target_fps
    return times, interval, 1 / target_fps, segments


def window_starts(info: "VideoInfo", num_frames: int, target_fps: float | None) -> np.ndarray:
    """Frames at which a whole gapless window of num_frames may start."""
    times, interval, step, segments = timeline(info, target_fps)
    reach = times + step * (num_frames - 1) - interval / 2 - 1e-9  # the last frame is shown for an interval
    return np.concatenate([a + np.flatnonzero(reach[a:b] <= times[b - 1]) for a, b in segments])


def window(
    info: "VideoInfo", num_frames: int, target_fps: float | None, short_clips: str, position: float
) -> np.ndarray:
    """Frame indices (num_frames,) of the window at `position` in [0, 1) among all that fit.

    In a clip that is too short: its longest segment from the start, then its last frame again ("pad") or from the
    start again ("loop").
    """
    times, interval, step, segments = timeline(info, target_fps)
    starts = window_starts(info, num_frames, target_fps)
    offsets = step * np.arange(num_frames)
    if len(starts):
        start = int(starts[int(position * len(starts))])
        first, end = next((a, b) for a, b in segments if a <= start < b)
    else:
        first, end = max(segments, key=lambda segment: segment[1] - segment[0])
        start = first
        if short_clips == "loop":
            offsets = offsets % (times[end - 1] - times[first] + interval)
    middles = (times[first : end - 1] + times[first + 1 : end]) / 2  # frame first + n is nearest up to middles[n]
    return first + np.searchsorted(middles, times[start] + offsets - 1e-9)


# --------------------------------------------------------------------------------------------------------- dataset

RESIZE_MODES = ("crop", "pad", "stretch")
SHORT_CLIPS = ("skip", "pad", "loop")
MISSING_CAPTION = ("error", "skip", "empty")
DECODE_BYTES = 512 * 2**20  # a clip whose frames are larger than this at full size is read window by window


class TextVideoDataset:
    """Clips and captions for training: dataset[i] or dataset[(epoch, i)] is a dict of

    video: float32 tensor (3, T, H, W) in [-1, 1], or [0, 1] if not `normalize`; black and white map to the ends exactly
    text:  caption
    index: i
    path:  the video file

    A window of `num_frames` frames is chosen by time: every frame, or with `target_fps` the frames nearest to
    start + k / target_fps (of a slow clip some repeat). It never crosses a gap left by damaged packets. Clips that are
    shorter follow `short_clips`: "skip", "pad" (repeat the last frame) or "loop".

    augment: random window, random crop along the longer side (resize_mode "crop"), and, with probability 1/2, a
    horizontal flip that also exchanges left and right in the caption (see `swap_left_right`). The "val" split, and
    augment=False, take the middle window and the centre. Every choice comes from `self.rng`, seeded with (seed, epoch,
    index): neither order nor worker processes matter. Override the two hooks for your own augmentation and draw from
    `self.rng` there.

    frame_size: height and width, or (height, width); `width` overrides the width. max_samples: use only the first
    usable clips, before the split. cache_bytes: resized clips kept in memory, per process; changes speed alone.
    `report` says what was skipped: {"ok": n, "skipped": {reason: [file names]}, ...}.

    Raises FileNotFoundError or ValueError with a one-line remedy if the folder or an argument cannot be used.
    """

    def __init__(
        self,
        data_dir: str | Path,
        num_frames: int = 16,
        frame_size: int | tuple[int, int] = 64,
        normalize: bool = True,
        augment: bool = True,
        max_samples: int | None = None,
        *,
        split: str = "all",
        val_fraction: float = 0.05,
        target_fps: float | None = None,
        resize_mode: str = "crop",
        short_clips: str = "skip",
        missing_caption: str = "error",
        caption_encoding: str = "utf-8-sig",
        seed: int = 0,
        cache_bytes: int = 512 * 2**20,
        width: int | None = None,
    ):
        self.data_dir = Path(data_dir)
        self.num_frames, self.normalize, self.augment = num_frames, normalize, augment
        self.height, self.width = (frame_size, frame_size) if isinstance(frame_size, int) else frame_size
        self.width = width or self.width
        self.split, self.seed, self.target_fps = split, seed, target_fps
        self.resize_mode, self.short_clips, self.missing_caption = resize_mode, short_clips, missing_caption
        self.caption_encoding = "utf-8-sig" if caption_encoding.lower() in ("utf-8", "utf8") else caption_encoding
        self.cache_bytes, self.cached_bytes, self.cache = cache_bytes, 0, {}
        self.rng = np.random.default_rng(seed)
        self._check_arguments(val_fraction, max_samples)

        self.report: dict = {}
        self.items = self._index(max_samples)  # [(VideoInfo, caption)]
        if split != "all":
            self.items = self._split(val_fraction)
        if split != "val":  # the training set has said it already
            self._print_report()

    def _check_arguments(self, val_fraction: float, max_samples: int | None) -> None:
        for name, value in (("num_frames", self.num_frames), ("frame_size", self.height), ("width", self.width)):
            if value < 1:
                raise ValueError(f"{name}: got {value}, must be at least 1")
        if max_samples is not None and max_samples < 1:
            raise ValueError(f"max_samples: got {max_samples}, must be at least 1 (leave it out to use every clip)")
        if self.target_fps is not None and not 0 < self.target_fps < math.inf:
            raise ValueError(f"target_fps: got {self.target_fps}, must be a positive number")
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction: got {val_fraction}, must be in [0, 1)")
        for name, value, choices in (
            ("split", self.split, ("all", "train", "val")),
            ("resize_mode", self.resize_mode, RESIZE_MODES),
            ("short_clips", self.short_clips, SHORT_CLIPS),
            ("missing_caption", self.missing_caption, MISSING_CAPTION),
        ):
            if value not in choices:
                raise ValueError(f"{name}: got {value!r}, must be one of {', '.join(choices)}")
        try:
            b"a".decode(self.caption_encoding)
        except LookupError:
            raise ValueError(f"caption_encoding: Python knows no text encoding {self.caption_encoding!r}") from None
        except UnicodeError:  # a known encoding in which one byte is no text
            pass

    # ------------------------------------------------------------------------------------- what is in the folder

    def _index(self, max_samples: int | None) -> list[tuple]:
        clips, orphans = find_clips(self.data_dir, self.caption_encoding)
        if fatal := next((clip for clip in clips if clip.fatal), None):
            raise CaptionError(fatal.problem)
        tolerated = ("", NO_CAPTION, EMPTY_CAPTION) if self.missing_caption == "empty" else ("",)
        skipped, notes = defaultdict(list), {}
        for clip in clips:
            if clip.problem not in tolerated:
                skipped[clip.problem].append(clip.path.name)
        if self.missing_caption == "error" and skipped.keys() & {NO_CAPTION, EMPTY_CAPTION}:
            found = "; ".join(listed(skipped[why], why) for why in (NO_CAPTION, EMPTY_CAPTION) if skipped[why])
            raise ValueError(
                f"{printable(self.data_dir)}: {found}; write captions/<name>.txt or pass --missing_caption skip|empty"
            )
        items, longest = [], 0
        usable = [clip for clip in clips if clip.problem in tolerated]
        results = probe_all(self.data_dir, [clip.path for clip in usable])
        for clip, info in zip(usable, results, strict=False):
            if isinstance(info, str):
                skipped[info].append(clip.path.name)
                continue
            if info.notes:
                notes[clip.path.name] = list(info.notes)
            if self.short_clips == "skip" and not len(window_starts(info, self.num_frames, self.target_fps)):
                longest = max(longest, info.frames)
                skipped[too_short(self.num_frames, self.target_fps)].append(clip.path.name)
                continue
            items.append((info, clip.text))
            if len(items) == max_samples:
                break
        results.close()  # saves the index when max_samples ended the loop
        self.report = {
            "data_dir": str(self.data_dir),
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
            raise ValueError(f"{printable(self.data_dir)}: none of {len(clips)} videos is usable: {why}; {remedy}")
        return items

    def _split(self, val_fraction: float) -> list[tuple]:
        count = len(self.items)
        if count == 1:
            if self.split == "val":
                print("warning: there is only one clip, so validation uses the training clip", file=sys.stderr)
            return self.items
        val_count = min(max(1, round(val_fraction * count)), count - 1)
        is_val = np.zeros(count, dtype=bool)
        is_val[np.random.default_rng([self.seed, 0x5E7]).permutation(count)[:val_count]] = True
        return [item for item, val in zip(self.items, is_val, strict=True) if val == (self.split == "val")]

    def _print_report(self) -> None:
        lines = [listed(names, reason) for reason, names in self.report["skipped"].items()]
        if lines:
            lines = [f"{printable(self.data_dir)}: {self.report['ok']} clips usable, skipped:", *lines]
        if orphans := self.report["captions_without_video"]:
            lines.append(listed(orphans, "caption without a video"))
        lines += [listed(names, f"note: {note}") for note, names in by_remark(self.report["notes"]).items()]
        if lines:
            print("\n  ".join(lines), file=sys.stderr)

    # -------------------------------------------------------------------------------------------------- samples

    def _frames(self, index: int, window: np.ndarray) -> np.ndarray:
        """Resized frames of one window, (T, H', W', 3) uint8, through the cache of whole clips.

        resize_mode "crop" keeps here what the crop will cut off, so that the cut can differ each time.
        """
        from utils.video_io import read_frames, resize_frames

        if index in self.cache:
            return self.cache[index][window]
        info = self.items[index][0]
        height, width, mode = self.height, self.width, self.resize_mode
        if mode == "crop":
            scale = max(height / info.height, width / info.width)
            height, width, mode = round(info.height * scale), round(info.width * scale), "stretch"
        size = info.frames * height * width * 3
        keep = (
            size <= self.cache_bytes - self.cached_bytes and info.frames * info.height * info.width * 3 <= DECODE_BYTES
        )
        wanted, position = (np.arange(info.frames), window) if keep else np.unique(window, return_inverse=True)
        try:
            frames = resize_frames(read_frames(info, wanted), height, width, mode)
        except (ValueError, OSError) as error:
            raise ValueError(f"{printable(info.path)}: {error}; it was readable when training began") from error
        if keep:
            self.cache[index] = frames
            self.cached_bytes += size
        return frames[position]  # indexing by array copies, here and above: hooks may write into it

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        import torch

        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} clips")
        index = int(index) % len(self)
        info, text = self.items[index]
        self.rng = np.random.default_rng([self.seed, int(epoch), index])
        augment = self.augment and self.split != "val"

        position, *anchor, coin = self.rng.random(4) if augment else (0.5, 0.5, 0.5, 1.0)
        frames = self._frames(index, window(info, self.num_frames, self.target_fps, self.short_clips, position))
        if self.resize_mode == "crop":
            slack = np.subtract(frames.shape[1:3], (self.height, self.width))
            top, left = np.rint(slack * anchor).astype(int)
            frames = frames[:, top : top + self.height, left : left + self.width]
        if augment:
            if coin < 0.5 and (mirrored := swap_left_right(text)) is not None:
                frames, text = frames[:, :, ::-1], mirrored
            frames, text = self._call_hooks(np.ascontiguousarray(frames), text)

        video = torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2).float()
        video = video / 127.5 - 1 if self.normalize else video / 255
        return {"video": video.contiguous(), "text": text, "index": index, "path": info.path}

    def _call_hooks(self, frames: np.ndarray, text: str) -> tuple[np.ndarray, str]:
        shape, name = frames.shape, type(self).__name__
        frames, text = self.augment_video(frames), self.augment_text(text)
        if not isinstance(frames, np.ndarray) or frames.shape != shape or frames.dtype != np.uint8:
            got = f"{frames.dtype} {frames.shape}" if isinstance(frames, np.ndarray) else type(frames).__name__
            raise ValueError(f"{name}.augment_video returned {got}, must return a uint8 array (T, H, W, 3) = {shape}")
        if not isinstance(text, str):
            raise ValueError(f"{name}.augment_text returned {type(text).__name__}, must return a str")
        return frames, text

    def augment_text(self, text: str) -> str:
        """Hook: change the caption of one sample. Called only when augmenting."""
        return text

    def augment_video(self, frames: np.ndarray) -> np.ndarray:
        """Hook: change the frames of one sample: uint8 (T, H, W, 3) RGB, same shape out. Only when augmenting."""
        return frames

    def captions(self, mirrored: bool = False) -> list[str]:
        """The caption of every clip; with mirrored=True also what a flip makes of it (words a tokenizer must know)."""
        texts = [text for _, text in self.items]
        return texts + [text for text in map(swap_left_right, texts) if text is not None] if mirrored else texts

    def fingerprint(self) -> str:
        """Digest of the clips (name, size in bytes, frames) and captions, in order: the same data, the same digest."""
        rows = [(Path(info.path).name, os.path.getsize(info.path), info.frames, text) for info, text in self.items]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def __getstate__(self) -> dict:
        return self.__dict__ | {"cache": {}, "cached_bytes": 0}  # a spawned worker fills its own


def too_short(num_frames: int, target_fps: float | None) -> str:
    return f"fewer than {num_frames} frames" + (f" at {target_fps:g} fps" if target_fps else "")


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


# ------------------------------------------------------------------------------------------------------ data check

STATIC_LEVELS = 0.5  # mean absolute difference between frames; codec noise reaches 0.3, slow motion 1.7


def check_dataset(
    data_dir: Path,
    num_frames: int = 16,
    frame_size: int = 64,
    target_fps: float | None = None,
    resize_mode: str = "crop",
    caption_encoding: str = "utf-8-sig",
) -> dict:
    """Look for corrupt, short, static, duplicate and caption-less clips; writes data_dir/dataset_report.json.

    Returns the report: {videos: n, ok: n usable for training, findings: {reason: [names]}, duplicates: [[names]],
    captions_without_video: [names], notes: {name: [remarks]}}. Static clips and duplicates are usable.
    """
    from tqdm import tqdm

    clips, orphans = find_clips(data_dir, caption_encoding)
    infos = list(probe_all(data_dir, [clip.path for clip in clips]))
    findings, notes, same, usable = defaultdict(list), {}, defaultdict(list), 0
    readable = [(clip, info) for clip, info in zip(clips, infos, strict=True) if not isinstance(info, str)]
    for clip, info in zip(clips, infos, strict=True):
        if isinstance(info, str):
            findings[info].append(clip.path.name)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        contents = pool.map(lambda pair: clip_content(pair[1]), readable)
        for (clip, info), (motion, digest) in tqdm(
            zip(readable, contents, strict=True), total=len(readable), desc="checking", unit="video", disable=None
        ):
            name = clip.path.name
            short = not len(window_starts(info, num_frames, target_fps))
            usable += not short and not clip.problem
            if short:
                findings[too_short(num_frames, target_fps)].append(name)
            if clip.problem:
                findings[clip.problem].append(name)
            if motion < STATIC_LEVELS:
                findings["static: nothing moves"].append(name)
            if info.notes:
                notes[name] = list(info.notes)
            same[digest].append(name)
    report = {
        "videos": len(clips),
        "ok": usable,
        "findings": dict(findings),
        "duplicates": [names for names in same.values() if len(names) > 1],
        "captions_without_video": orphans,
        "notes": notes,
    }
    write_text(data_dir / "dataset_report.json", json.dumps(report, indent=2) + "\n")
    return report


def clip_content(info: "VideoInfo") -> tuple[float, str]:
    """(mean absolute difference between frames in 8-bit levels, hash of the content), from 8 frames over the clip."""
    from utils.video_io import read_frames, resize_frames

    try:
        frames = read_frames(info, np.linspace(0, info.frames - 1, min(8, info.frames)).round())
    except (ValueError, OSError) as error:
        return math.inf, f"{info.path}: {error}"  # gone since it was probed
    grey = resize_frames(frames, 64, 64, "stretch").mean(axis=-1)
    motion = np.abs(np.diff(grey, axis=0)).mean() if len(grey) > 1 else 0.0
    thumbs = grey.reshape(len(grey), 16, 4, 16, 4).mean(axis=(2, 4))
    digest = hashlib.sha256(np.round(thumbs).astype(np.uint8).tobytes() + str(info.frames).encode())
    return float(motion), digest.hexdigest()


def print_check(data_dir: Path, report: dict) -> None:
    print(f"{printable(data_dir)}: {report['ok']} of {report['videos']} videos are usable")
    lines = [listed(names, reason) for reason, names in report["findings"].items()]
    lines += [listed(names, "duplicates") for names in report["duplicates"][:5]]
    if len(report["duplicates"]) > 5:
        lines.append(f"and {len(report['duplicates']) - 5} more groups of duplicates")
    if report["captions_without_video"]:
        lines.append(listed(report["captions_without_video"], "caption without a video"))
    lines += [listed(names, f"note: {note}") for note, names in by_remark(report["notes"]).items()]
    print("".join(f"  {line}\n" for line in lines or ["nothing to report"]), end="")


def save_contact_sheet(path: Path, dataset: TextVideoDataset, rows: int = 8) -> bool:
    """PNG of what training sees: a clip per row, spread over the dataset; False if this install draws none."""
    try:
        from utils.video_io import contact_sheet, to_uint8, write_image
    except ImportError:
        return False
    chosen = np.unique(np.linspace(0, len(dataset) - 1, rows).round().astype(int))
    samples = [dataset[i] for i in chosen]
    videos = [to_uint8(sample["video"]) for sample in samples]
    write_image(path, contact_sheet(videos, [sample["text"] for sample in samples], max_frames=8))
    return True


# ---------------------------------------------------------------------------------------------------- demo dataset

DEMO_FILE = re.compile(r"clip_\d{5,}\.(mp4|txt)")


def write_demo_dataset(
    output_dir: Path, num_clips=1500, num_frames=16, frame_size=64, fps=8, seed=0, hard=False, overwrite=False
) -> bool:
    """Write the moving-shapes dataset; the same arguments write the same bytes.

    A folder finished with these settings is left alone (returns False); a half-written one is written again. Raises
    ValueError if it was finished with other settings and not `overwrite`, or if its videos/ holds foreign files.
    """
    from tqdm import tqdm

    from utils.video_io import write_video

    output_dir, done = Path(output_dir), Path(output_dir) / "dataset.json"
    folders = videos, captions = output_dir / "videos", output_dir / "captions"
    settings = dict(num_clips=num_clips, num_frames=num_frames, frame_size=frame_size, fps=fps, seed=seed, hard=hard)
    if done.exists() and not overwrite:
        try:
            found = json.loads(done.read_text(encoding="utf-8"))["settings"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{done}: not a demo dataset's file; choose another --output_dir or pass --overwrite"
            ) from None
        differences = [
            f"{key} {found.get(key)} -> {value}" for key, value in settings.items() if found.get(key) != value
        ]
        if differences:
            raise ValueError(
                f"{output_dir} holds a demo dataset with other settings ({', '.join(differences)}); "
                "pass --overwrite to replace it or --output_dir to keep both"
            )
        if all(len(list(folder.glob("clip_*"))) == num_clips for folder in folders):
            return False
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        foreign = [
            path.name
            for path in folder.iterdir()
            if not path.name.startswith(".") and not DEMO_FILE.fullmatch(path.name)
        ]
        if foreign:
            raise ValueError(f"{folder} holds other files ({printable(min(foreign))}); choose another --output_dir")
    done.unlink(missing_ok=True)
    for path in (path for folder in folders for path in folder.glob("clip_*")):
        path.unlink()

    plans = shapes.plan_clips(num_clips, seed, hard)

    def write_clip(index: int) -> dict:
        frames, caption, objects = shapes.make_clip(plans[index], index, seed, num_frames, frame_size, hard)
        name = f"clip_{index:05d}"
        write_video(videos / f"{name}.mp4", frames, fps)
        (captions / f"{name}.txt").write_text(caption + "\n", encoding="utf-8", newline="\n")
        return {
            "file": f"videos/{name}.mp4",
            "caption": caption,
            "form": plans[index]["form"],
            "fps": fps,
            "frames": num_frames,
            "size": frame_size,
            "seed": [seed, index],
            "objects": objects,
        }

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        rows = list(
            tqdm(
                pool.map(write_clip, range(num_clips)), total=num_clips, desc="writing clips", unit="clip", disable=None
            )
        )
    write_text(output_dir / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    for name, held_out in (("seen_prompts.txt", False), ("heldout_prompts.txt", True)):
        write_text(output_dir / name, "\n".join(shapes.prompts(hard, held_out)) + "\n")
    write_text(done, json.dumps({"settings": settings}, indent=2) + "\n")  # last: its presence means finished
    return True


# ---------------------------------------------------------------------------------------------------------- script


def add_data_args(parser: argparse.ArgumentParser) -> None:
    """Flags of the training data; `data_args` turns the parsed ones into TextVideoDataset arguments."""
    group = parser.add_argument_group("data")
    group.add_argument("--data_dir", type=Path, required=True, help="folder with videos/ and captions/")
    group.add_argument("--num_frames", type=ranged(int, 1, 1024), default=16, help="frames per clip (default 16)")
    group.add_argument(
        "--frame_size", type=ranged(int, 8, 4096), default=64, help="height and width in px (default 64)"
    )
    group.add_argument("--max_samples", type=ranged(int, 1, 10**9), help="use only the first N usable clips")
    group.add_argument(
        "--augment", action=argparse.BooleanOptionalAction, default=True, help="random window, crop, flip"
    )
    group.add_argument("--short_clips", choices=SHORT_CLIPS, default="skip", help="clips with too few frames")
    group.add_argument("--missing_caption", choices=MISSING_CAPTION, default="error", help="clips without a caption")
    group.add_argument(
        "--val_fraction", type=ranged(float, 0, 0.9), default=0.05, help="at least one clip (default 0.05)"
    )
    group.add_argument("--cache_mb", type=ranged(int, 0, 10**7), default=512, help="decoded clips kept in memory")
    add_reading_args(group)


def add_reading_args(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--target_fps", type=ranged(float, 0.01, 1000), help="sample frames by time (default: every frame)"
    )
    group.add_argument("--resize_mode", choices=RESIZE_MODES, default="crop", help="how other shapes become square")
    group.add_argument("--caption_encoding", default="utf-8-sig", help="of caption files, e.g. gb18030 (default UTF-8)")


def data_args(args: argparse.Namespace) -> dict:
    """Keyword arguments of TextVideoDataset from the flags of `add_data_args`."""
    names = (
        "data_dir num_frames frame_size max_samples augment short_clips missing_caption val_fraction target_fps "
        "resize_mode caption_encoding"
    )
    return {name: getattr(args, name) for name in names.split()} | {"cache_bytes": args.cache_mb * 2**20}


def ranged(kind: type, low: float, high: float):
    """argparse type: a number in [low, high], not nan, not 1_0."""

    def number(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if "_" in text or not low <= value <= high:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"got {printable(text)}, must be {what} from {low} to {high}")
        return value

    return number


RANGES = {  # flag of the demo: (lowest, highest)
    "num_clips": (1, 1_000_000),
    "num_frames": (2, 1024),
    "frame_size": (16, 1024),
    "fps": (1, 120),
    "seed": (0, 2**32 - 1),
}


def whole_number(text: str) -> int | str:
    """int, or the text itself when it is none: parse_args then reports every bad flag in one go."""
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else text


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Write a demo dataset of moving shapes, or check a folder of your own videos.", allow_abbrev=False
    )
    parser.add_argument("--output_dir", type=Path, default=Path("demo_video_data"), help="where the demo goes")
    parser.add_argument("--num_clips", type=whole_number, default=1500, help="clips to write (default 1500)")
    parser.add_argument("--num_frames", type=whole_number, default=16, help="frames per clip (default 16)")
    parser.add_argument("--frame_size", type=whole_number, default=64, help="height and width in px, even (default 64)")
    parser.add_argument("--fps", type=whole_number, default=8, help="frames per second (default 8)")
    parser.add_argument("--seed", type=whole_number, default=0, help="the same seed writes the same bytes (default 0)")
    parser.add_argument("--hard", action="store_true", help="textured backgrounds, 8 colours, often two objects")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset that has other settings")
    group = parser.add_argument_group("data check, for --num_frames and --frame_size")
    group.add_argument("--check", type=Path, metavar="DIR", help="report what is wrong with this data folder")
    add_reading_args(group)
    args = parser.parse_args(argv)

    problems = []
    for flag, (low, high) in RANGES.items():
        value = getattr(args, flag)
        if not isinstance(value, int) or not low <= value <= high:
            problems.append(f"--{flag}: got {printable(value)}, must be a whole number from {low} to {high}")
        elif flag == "frame_size" and value % 2:
            problems.append(f"--{flag}: got {value}, must be even (video codecs halve the colour planes)")
    if args.output_dir.exists() and not args.output_dir.is_dir():
        problems.append(f"--output_dir: {printable(args.output_dir)} is a file, must be a folder")
    if problems:
        print("\n".join(problems), file=sys.stderr)
        raise SystemExit(2)
    return args


def main(args: argparse.Namespace) -> int:
    """Returns the exit status: 0, or 2 if the user has to do something."""
    try:
        return run_check(args) if args.check else run_demo(args)
    except (ValueError, OSError) as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 2


def run_demo(args: argparse.Namespace) -> int:
    names = ("output_dir", "num_clips", "num_frames", "frame_size", "fps", "seed", "hard", "overwrite")
    written = write_demo_dataset(**{name: getattr(args, name) for name in names})
    folder = printable(args.output_dir)
    print(f"{folder}: {args.num_clips} clips " + ("written" if written else "are already there, left alone"))
    return 0


def run_check(args: argparse.Namespace) -> int:
    names = ("num_frames", "frame_size", "target_fps", "resize_mode", "caption_encoding")
    settings = {name: getattr(args, name) for name in names}
    report = check_dataset(args.check, **settings)
    print_check(args.check, report)
    if not report["ok"]:
        print(f"error: {printable(args.check)}: no video is usable for training, see above", file=sys.stderr)
        return 2
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the report has been printed
            dataset = TextVideoDataset(args.check, **settings, augment=False, missing_caption="skip")
    except CaptionError as error:
        print(f"training will stop at {error}")
        return 0
    if save_contact_sheet(args.check / "dataset_report.png", dataset):
        print(f"what training sees: {printable(args.check / 'dataset_report.png')}")
    return 0


if __name__ == "__main__":
    sys.exit(main(parse_args()))
