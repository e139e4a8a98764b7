"""Frames of a probed video by their numbers: uint8 RGB (T, H, W, 3).

Frame n is the n-th frame of decoding from the start, wherever reading begins.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, pairwise
from os import stat

import av
import cv2
import numpy as np
from av.video.frame import PictureType

from utils.decoding.fields import Numbered, progressive
from utils.decoding.pictures import Pictures
from utils.decoding.source import Source, number_of
from utils.decoding.stills import iter_stills
from utils.decoding.video_info import STILLS, VideoError, VideoInfo, files_of, scaled_width, whole_of

SEEK_FROM = 64  # below this index, decoding from the start costs about as much as a seek
WHOLE_PICTURES = (PictureType.I, PictureType.NONE)  # none: of codecs that know no other
MOST_SEEKS = 8  # that are tried, each to an earlier key frame


def read_frames(info: VideoInfo, indices: Sequence[int]) -> np.ndarray:
    """Frames of a probed video: uint8 RGB (len(indices), height, width, 3); indices ascend and may repeat.

    Raises VideoError if a frame cannot be had.
    """
    frames = np.empty((len(indices), info.height, info.width, 3), np.uint8)
    for target, frame in zip(frames, iter_frames(info, indices), strict=True):  # all are written, or it is an error
        target[:] = frame
    return frames


def iter_frames(
    info: VideoInfo, indices: Sequence[int], look: Callable[[av.VideoFrame], object] | None = None
) -> Iterator[np.ndarray]:
    """The frames of `read_frames` one by one, for videos that do not fit into memory: uint8 RGB (height, width, 3).

    look: called with every frame that is decoded on the way, as it is stored.
    """
    indices = [int(n) for n in indices]
    if any(n > later for n, later in pairwise(indices)):
        raise ValueError("indices must ascend")
    if not indices:
        return
    if indices[0] < 0 or indices[-1] >= info.frames:
        raise VideoError(f"frames {indices[0]} to {indices[-1]} wanted of {info.frames}")
    if info.codec == STILLS:
        yield from iter_stills(info, indices)
        return
    if info.beside:
        yield from _beside(info, indices, look)
        return
    if info.part:
        yield from iter_frames(whole_of(info), [info.part.first + n for n in indices], look)
        return
    _check_unchanged(info)
    picture, given = Pictures(info.width, info.height), 0
    frames = _frames_from(info, indices[0])
    if look:
        frames = _looked_at(frames, look)
    for n, frame in progressive(frames):
        if n > indices[given]:
            break
        if n == indices[given]:
            pixels = picture(frame)
            while indices[given] == n:
                yield pixels
                given += 1
                if given == len(indices):
                    return
    raise VideoError(f"frame {indices[given]} cannot be decoded: the file is damaged, or has changed")


def _beside(
    info: VideoInfo, indices: list[int], look: Callable[[av.VideoFrame], object] | None
) -> Iterator[np.ndarray]:
    for frames in zip(*(iter_frames(each, indices, look) for each in info.beside), strict=True):
        parts = []
        for frame, each in zip(frames, info.beside, strict=True):
            if each.height != info.height:
                size = scaled_width(each, info.height), info.height
                frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
            parts.append(frame)
        yield np.concatenate(parts, axis=1)


def _looked_at(frames: Iterable[Numbered], look: Callable[[av.VideoFrame], object]) -> Iterator[Numbered]:
    for n, frame in frames:
        look(frame)
        yield n, frame


def _check_unchanged(info: VideoInfo) -> None:
    try:
        whole = stat(*files_of(info)).st_size
        if whole < sum(info.section[1:]) if info.section else whole != info.bytes:
            raise VideoError("the file has changed since it was probed")
    except OSError as error:
        raise VideoError(f"cannot be read: {error.strerror}") from None


def _frames_from(info: VideoInfo, first: int) -> Iterator[Numbered]:
    """Frames with their indices, in order, at least from `first` on; if that is interlaced, from the one before."""
    if info.interlaced:
        first = max(0, first - 1)
    frames = _numbered(info, first)
    for n, frame in frames:
        if n >= first and frame.interlaced_frame and first and not info.interlaced:
            frames.close()
            frames = _numbered(info, first - 1)
            break
        yield n, frame
        if n >= first:
            break
    yield from frames


def _numbered(info: VideoInfo, first: int) -> Iterator[Numbered]:
    if not info.by_time:
        return _by_counting(info)
    return _by_time(info, first)


def _source(info: VideoInfo, threads: int = 0) -> Source:
    return Source(info.path, info.stream, threads, section=info.section)


def _by_counting(info: VideoInfo) -> Iterator[Numbered]:
    """All frames, decoded from the start; of a damaged file those that are whole."""
    with closing(_source(info, threads=1 if info.damaged else 0)) as source:
        frames = (frame for packet in source.packets() for frame in _decoded(source, packet, info.damaged))
        left_out = set(info.left_out)
        yield from enumerate(frame for n, frame in enumerate(frames) if n not in left_out)


def _by_time(info: VideoInfo, first: int) -> Iterator[Numbered]:
    """Frames from `first` on or from an earlier one, each named by its time stamp."""
    if first >= SEEK_FROM:
        with closing(_source(info)) as source:
            if frames := _sought(source, info, first):
                yield from _vouched(frames, source)
                return
    with closing(_source(info)) as source:
        source.wanted_from = _ticks_before(first, info, source) if info.verified else None
        frames = (frame for packet in source.packets() for frame in _decoded(source, packet))
        yield from _vouched(((_index_of(frame.pts * source.time_base, info), frame) for frame in frames), source)


def _vouched(frames: Iterable[Numbered], source: Source) -> Iterator[Numbered]:
    """The frames, each held back until all that were decoded before it, and that it may lean on, have come out whole:
    then whoever wants no more frames has none that leans on a damaged one."""
    waiting = deque()
    for n, frame in frames:
        waiting.append((source.latest[number_of(frame)], n, frame))
        while waiting and waiting[0][0] <= frame.pts:
            yield waiting.popleft()[1:]
    yield from (held[1:] for held in waiting)


def _sought(source: Source, info: VideoInfo, first: int) -> Iterator[Numbered] | None:
    """Frames from a key frame on that is shown at or before `first`; None if no seek leads to one.

    What is shown before the key frame but sent after it (open groups of pictures) lacks what it leans on, and is left
    out: then the key frame before that one is tried.
    """
    ticks = _ticks_before(first, info, source)
    source.wanted_from = ticks if info.verified else None
    for _ in range(MOST_SEEKS):
        source.seek(ticks)
        packets = source.packets()
        key = next((packet for packet in packets if packet.is_keyframe and packet.pts is not None), None)
        if key is None:
            return None
        frames = _from_key_frame(source, info, key, packets)
        try:
            n, frame = next(frames, (first + 1, None))
        except VideoError:
            n = first + 1
        if n <= first:
            return chain([(n, frame)], frames)
        ticks = min(ticks, key.pts if key.dts is None else key.dts) - 1
    return None


def _from_key_frame(
    source: Source, info: VideoInfo, key: av.Packet, packets: Iterable[av.Packet]
) -> Iterator[Numbered]:
    """Raises VideoError if what the container calls a key frame is no picture of its own (intra refresh)."""
    sought = False
    for packet in chain([key], packets):
        for frame in _decoded(source, packet, begin=key.pts):
            sought = sought or (frame.pts == key.pts and frame.pict_type in WHOLE_PICTURES)
            if not sought:
                raise VideoError("its key frames are none")
            yield _index_of(frame.pts * source.time_base, info), frame


def _decoded(
    source: Source, packet: av.Packet, damaged: bool = False, begin: int | None = None
) -> Iterator[av.VideoFrame]:
    """The frames that come with a packet, less those before the time stamp `begin`.

    Raises VideoError for what cannot be decoded whole, unless the file is known to be damaged.
    """
    try:
        frames = source.decode(packet)
    except av.error.FFmpegError:
        if not damaged:
            raise VideoError("it has been damaged since it was probed") from None
        return
    for frame in frames:
        if begin is not None and (frame.pts is None or frame.pts < begin):
            continue
        if frame.is_corrupt and not damaged:
            raise VideoError("it has been damaged since it was probed")
        yield frame


def _ticks_before(n: int, info: VideoInfo, source: Source) -> int:
    """A time stamp before that of frame n, and behind that of the frame in front of it."""
    seconds = (n - 0.5) / info.fps if info.times is None else info.times[n] - source.time_base
    return int((info.start + seconds) / source.time_base)


def _index_of(seconds: float, info: VideoInfo) -> int:
    """The index of the frame of an undamaged file that has this time stamp."""
    seconds -= info.start
    if info.times is None:
        return round(seconds * info.fps)
    n = bisect_left(info.times, seconds)
    return min((m for m in (n - 1, n) if 0 <= m < info.frames), key=lambda m: abs(info.times[m] - seconds))
