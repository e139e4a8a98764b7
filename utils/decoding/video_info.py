"""What is known of a video file once it has been probed, and the error of those that are none."""

from dataclasses import dataclass
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


@dataclass(frozen=True)
class VideoInfo:
    """What a video file really holds; plain values, so that `VideoInfo(**json.loads(...))` restores it."""

    path: str  # absolute; of a video inside a tar file that of the tar file, and its name in there
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

    def __post_init__(self):
        for name in ("left_out", "gaps", "times", "notes"):  # JSON made lists of them
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.section, list):
            object.__setattr__(self, "section", Section(*self.section))


def is_picture(info: VideoInfo) -> bool:
    """Whether a clip is a single picture."""
    return info.codec == STILLS and info.frames == 1
