"""What is known of a video file once it has been probed, and the error of those that are none."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

STILLS = "pictures"  # of a folder of pictures, or a single one, where a video has its codec
STILL_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


class VideoError(ValueError):
    """A file that is no usable video; the message is the reason in one line, without the path."""


class Section(NamedTuple):
    """The bytes of a file that lies inside another one, a tar file say."""

    file: str  # absolute
    start: int
    size: int


class Part(NamedTuple):
    """Frames of a longer video, an episode say: its file, the number of the first, and how many the whole file has."""

    file: str  # absolute
    first: int
    whole: int


@dataclass(frozen=True)
class VideoInfo:
    """What a video file really holds; plain values, so that `VideoInfo(**json.loads(...))` restores it."""

    path: str  # absolute; of a video inside a tar file that of the tar file, and its name in there; of a part its own
    frames: int  # that can be shown
    fps: float  # average
    width: int  # as displayed: square pixels, rotation applied
    height: int
    codec: str  # for messages
    stream: int = 0  # its number among the streams of the file
    bytes: int = 0  # of the file
    start: float = 0.0  # seconds of the first frame
    by_time: bool = False  # a frame is found by its time stamp, so that reading may begin anywhere; else by counting
    interlaced: bool = False
    verified: bool = True  # every frame has been decoded; else they were counted
    damaged: bool = False
    left_out: tuple[int, ...] = ()  # of a damaged file: decoded frames that lean on lost ones, so they are not `frames`
    gaps: tuple[int, ...] = ()  # n in gaps: frames are missing between n-1 and n, so no clip may contain both
    times: tuple[float, ...] | None = None  # seconds from the first frame, only when the frame rate is variable
    notes: tuple[str, ...] = ()  # remarks for the user, one line each
    section: Section | None = None  # of the file that it lies in
    part: Part | None = None  # of a longer video
    beside: tuple["VideoInfo", ...] = ()  # videos of the same moments that are shown side by side, from the left

    def __post_init__(self):
        for name in ("left_out", "gaps", "times", "notes", "beside"):  # JSON made lists of them
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.section, list):
            object.__setattr__(self, "section", Section(*self.section))


def is_picture(info: VideoInfo) -> bool:
    """Whether a clip is a single picture."""
    return info.codec == STILLS and info.frames == 1


def files_of(info: VideoInfo) -> tuple[str, ...]:
    """The files, or the folder of pictures, that a clip is read from."""
    if info.beside:
        return tuple(file for each in info.beside for file in files_of(each))
    return (info.section.file if info.section else info.part.file if info.part else info.path,)


def whole_of(info: VideoInfo) -> VideoInfo:
    """The longer video of a part."""
    return replace(info, path=info.part.file, frames=info.part.whole, part=None)


def part_of(info: VideoInfo, path: str, first: int, frames: int) -> VideoInfo:
    """So many frames of a video from `first` on, as a clip by itself with a path of its own. Raises VideoError for a
    file that has fewer, and for one of which it is not sure which frame is which."""
    if first < 0 or frames < 1 or first + frames > info.frames:
        raise VideoError(f"its video has {info.frames} frames, and it should lie in {first} to {first + frames - 1}")
    if info.damaged or info.gaps or info.times is not None:
        raise VideoError("its video has gaps, or frames at uneven times: nobody knows which are its frames")
    return replace(info, path=path, frames=frames, part=Part(info.path, first, info.frames))


def side_by_side(infos: Sequence[VideoInfo], path: str) -> VideoInfo:
    """Videos of the same moments as one, each at the height of the lowest. Raises VideoError if they differ in frames
    or rate."""
    first, height = infos[0], min(info.height for info in infos)
    if len({(info.frames, round(info.fps, 3)) for info in infos}) > 1:
        found = ", ".join(f"{info.frames} at {info.fps:g} a second" for info in infos)
        raise VideoError(f"its cameras have {found} frames: they do not belong together")
    width = sum(scaled_width(info, height) for info in infos)
    whole = {"bytes": sum(info.bytes for info in infos), "verified": all(info.verified for info in infos)}
    return VideoInfo(path, first.frames, first.fps, width, height, first.codec, beside=tuple(infos), **whole)


def scaled_width(info: VideoInfo, height: int) -> int:
    """Of a video that is shown so high."""
    return round(info.width * height / info.height)
