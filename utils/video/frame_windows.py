"""Which frames of a video are used: windows and whole clips chosen by time, never across a gap of damaged packets; and
in which shape."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from utils.arguments.buckets import Bucket
from utils.decoding.video_info import is_picture

if TYPE_CHECKING:
    from utils.decoding.video_info import VideoInfo


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
    return _nearest(times, first, end, times[start] + offsets)


def _nearest(times: np.ndarray, first: int, end: int, wanted: np.ndarray) -> np.ndarray:
    """The frames of the segment [first, end) that are nearest to the wanted times."""
    middles = (times[first : end - 1] + times[first + 1 : end]) / 2  # frame first + n is nearest up to middles[n]
    return first + np.searchsorted(middles, wanted - 1e-9)


def sample_segment(
    info: "VideoInfo", first: int, end: int, target_fps: float | None, frame_stride: int
) -> tuple[np.ndarray, float]:
    """(frame indices, their rate in frames/s) of all of the gapless segment [first, end).

    Every frame_stride-th frame; or with target_fps the frames nearest to its times, at most as often as the video
    usually has them, so that none repeats unless the picture stood still.
    """
    if target_fps is None:
        indices = np.arange(first, end, frame_stride)
        if info.times is None or len(indices) < 2:
            return indices, info.fps / frame_stride
        return indices, (len(indices) - 1) / (info.times[indices[-1]] - info.times[first])
    times, interval, step, _ = timeline(info, target_fps)
    step = max(step, interval)
    count = int((times[end - 1] - times[first] + interval / 2) / step + 1e-6) + 1
    return _nearest(times, first, end, times[first] + step * np.arange(count)), 1 / step


def too_short(num_frames: int, target_fps: float | None) -> str:
    return f"fewer than {num_frames} frames" + (f" at {target_fps:g} fps" if target_fps else "")


def choose_bucket(info: "VideoInfo", buckets: Sequence[Bucket], target_fps: float | None) -> Bucket:
    """The shape that a clip is used in: the longest that it fills, or the shortest if none; then the nearest in aspect
    ratio, then the largest. A picture has one frame whatever the buckets say."""
    frames = sorted({each.frames for each in buckets})
    if is_picture(info):
        chosen = [each._replace(frames=1) for each in buckets]
    else:
        filled = (n for n in reversed(frames) if len(window_starts(info, n, target_fps)))
        length = next(filled, frames[0])
        chosen = [each for each in buckets if each.frames == length]

    def distance(each: Bucket) -> tuple[float, int]:
        ratio = math.log(each.width * info.height / (each.height * info.width))
        return round(abs(ratio), 6), -each.width * each.height

    return min(chosen, key=distance)
