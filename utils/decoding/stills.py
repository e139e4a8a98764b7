"""Pictures as clips: a folder of them is a video, in natural order; a single one is a video of one frame."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from utils.cli import printable
from utils.decoding.images import ImageError, decode_image
from utils.decoding.video_info import STILL_SUFFIXES, STILLS, Section, VideoError, VideoInfo
from utils.files import natural_key

STILLS_FPS = 8.0  # of a folder, unless somebody knows better


def are_stills(path: str) -> bool:
    return os.path.isdir(path) or path.lower().endswith(STILL_SUFFIXES)


def pictures_of(path: str) -> list[str]:
    """The pictures in a folder but hidden ones, in natural order; a picture itself. Raises VideoError if none."""
    if not os.path.isdir(path):
        return [path]
    try:
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if entry.name.lower().endswith(STILL_SUFFIXES)]
    except OSError as error:
        raise VideoError(f"cannot be read: {error.strerror}") from None
    found = sorted((name for name in names if not name.startswith(".")), key=natural_key)
    if not found:
        raise VideoError("a directory without pictures")
    return [os.path.join(path, name) for name in found]


def probe_stills(path: str, max_pixels: int, decode: bool, section: Section | None = None) -> VideoInfo:
    """Describe a picture or a folder of them; without `decode` only the first one is looked at. Raises VideoError."""
    pictures, sizes = pictures_of(path), {}
    for picture in pictures if decode else pictures[:1]:
        height, width = _decoded(picture, section).shape[:2]
        if width * height > max_pixels:
            raise VideoError(f"{width}x{height} is more than the limit of {max_pixels} pixels")
        sizes.setdefault((width, height))
    (width, height), *others = sizes
    notes = [f"its pictures have several sizes: all become {width}x{height}"] if others else []
    return VideoInfo(
        path=path,
        frames=len(pictures),
        fps=STILLS_FPS,
        width=width,
        height=height,
        codec=STILLS,
        bytes=section.size if section else sum(map(os.path.getsize, pictures)),
        section=section,
        verified=decode,
        notes=tuple(notes),
    )


def iter_stills(info: VideoInfo, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """The pictures at these ascending indices: uint8 RGB (height, width, 3), all of the size of the first.

    Raises VideoError if one cannot be read.
    """
    pictures, last = pictures_of(info.path), None
    if len(pictures) != info.frames:
        raise VideoError(f"has {len(pictures)} pictures, not {info.frames}: the folder has changed")
    for n in indices:
        if n != last:
            pixels, last = _decoded(pictures[n], info.section), n
            if pixels.shape[:2] != (info.height, info.width):
                pixels = cv2.resize(pixels, (info.width, info.height), interpolation=cv2.INTER_AREA)
        yield pixels


def _decoded(path: str, section: Section | None) -> np.ndarray:
    try:
        return decode_image(path, section)
    except ImageError as error:
        raise VideoError(f"{printable(Path(path).name)} {error}") from None
