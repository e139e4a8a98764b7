"""Dense maps beside a clip: depth, edges, segmentation, flow, masks: a video, a folder of pictures, a picture, or .npy.

A map has as many frames as its clip, or, with a rate of its own, lasts as long. Pictures and videos are grey (one
channel, where their colours agree) or in colour (three), and black to white is -1 to 1. Arrays (T, H, W) or
(T, H, W, C) of whole numbers are the same from 0 to their largest; floating point ones lie in [-1, 1] and are taken as
they are.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.decoding.video_info import STILL_SUFFIXES, STILLS, VideoError

if TYPE_CHECKING:
    from utils.decoding.video_info import VideoInfo

VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm")
GREY = 10  # levels by which colours of a grey picture may differ, since codecs keep them apart
ARRAY_TYPES = ("uint8", "uint16", "float16", "float32", "float64")
SAME_LENGTH = 1.5  # frames by which a map with a rate of its own may be shorter or longer than its clip


class ConditionError(ValueError):
    """A file beside a clip that cannot be used; the message is the reason in one line, without the path."""


def find_map(folder: Path, stem: str) -> Path | None:
    """The map of a clip of this name, of whichever kind; None without one."""
    if (folder / stem).is_dir():
        return folder / stem
    suffixes = (*VIDEO_SUFFIXES, ".npy", *STILL_SUFFIXES)
    return next((path for suffix in suffixes if (path := folder / f"{stem}{suffix}").is_file()), None)


@dataclass(frozen=True)
class MapFile:
    """A map that has been looked at: `info` of a video or of pictures, None of an array."""

    path: Path
    frames: int
    channels: int
    info: "VideoInfo | None" = None


def probe_map(path: Path) -> MapFile:
    """Raises ConditionError for what is no map."""
    if path.suffix == ".npy":
        array = _array(path)
        channels = array.shape[3] if array.ndim == 4 else 1
        return MapFile(path, len(array), channels)
    try:
        info = probe_video(path)
        first = read_frames(info, [0])[0].astype(int)
    except (VideoError, OSError) as error:
        raise ConditionError(str(error)) from None
    return MapFile(path, info.frames, 1 if np.ptp(first, axis=-1).max() <= GREY else 3, info)


def _array(path: Path) -> np.ndarray:
    """Raises ConditionError for what is no array of a map. Only numbers are read: a pickle is none."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ConditionError(f"is no .npy file of numbers ({' '.join(str(error).split())[:100]})") from None
    if array.ndim not in (3, 4) or array.dtype.name not in ARRAY_TYPES or not array.size:
        raise ConditionError(f"has shape {array.shape} of {array.dtype}; give (T, H, W) or (T, H, W, C) of numbers")
    return array


def map_indices(found: MapFile, clip: "VideoInfo", indices: np.ndarray) -> np.ndarray:
    """The frames of the map that belong to these frames of the clip. Raises ConditionError for another length."""
    if found.frames == clip.frames:
        return indices
    if found.frames == 1:  # a picture that holds for all of the clip, a mask say
        return np.zeros_like(indices)
    if found.info is None or found.info.codec == STILLS:
        raise ConditionError(f"has {found.frames} frames, its clip {clip.frames}")
    theirs, ours = found.frames / found.info.fps, clip.frames / clip.fps
    if abs(theirs - ours) > SAME_LENGTH / min(found.info.fps, clip.fps):
        raise ConditionError(f"lasts {theirs:.2f} s, its clip {ours:.2f} s")
    times = indices / clip.fps if clip.times is None else np.array(clip.times)[indices]
    return np.clip(np.rint(times * found.info.fps), 0, found.frames - 1).astype(int)


def read_map(found: MapFile, indices: np.ndarray, channels: int) -> np.ndarray:
    """Frames (T, H, W, channels) as they are stored: whole numbers, or floating point. Raises ConditionError for other
    channels, and for values outside [-1, 1]."""
    if found.info is None:
        values = np.stack([_array(found.path)[n] for n in indices])
        values = values[..., None] if values.ndim == 3 else values
        if values.dtype.kind == "f" and not (np.abs(values) <= 1).all():  # nor what is no number
            raise ConditionError("has values outside [-1, 1]; scale them, or store whole numbers")
    else:
        order, back = np.unique(indices, return_inverse=True)
        try:
            values = read_frames(found.info, order)[back]
        except (VideoError, OSError) as error:
            raise ConditionError(str(error)) from None
        if channels == 1:
            values = np.rint(values.mean(axis=-1, keepdims=True)).astype(np.uint8)
    if values.shape[-1] != channels:
        raise ConditionError(f"has {values.shape[-1]} channels, other clips' have {channels}")
    return values


def as_floats(values: np.ndarray) -> np.ndarray:
    """What read_map gives, float32 in [-1, 1]."""
    if values.dtype.kind == "u":
        return values.astype(np.float32) * (2 / np.iinfo(values.dtype).max) - 1
    return values.astype(np.float32)
