"""Video files in: frames are uint8 RGB (T, H, W, 3) everywhere.

`probe_video` decodes a file once and says what it really holds, `read_frames` and `iter_frames` return frames by index.
OpenCV reads; PyAV takes over where OpenCV delivers less than the container holds (its wheel opens AV1 and then yields
nothing). Headers are not believed: a frame exists when it decodes.
"""

import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np

MOST_CLAIMED = 1_000_000  # frames; a header that promises more is not acted upon before they have been decoded
MAX_FAILED_READS = 10  # in a row, then we call it the end of the file
SMALL_FILE = 2**17  # bytes; below it, threads take longer to start than they save
SEEK_FROM = 64  # below this index, decoding from the start costs about as much as a seek
PREROLL = 16  # frames decoded and dropped after a seek: the first ones may lack their references (intra refresh)
# How containers begin. Only in the named ones does an index make seeking exact.
_MAGIC = re.compile(
    rb"(?P<mp4>.{4}(?:ftyp|moov|mdat|wide|free|skip|styp|pnot))|(?P<matroska>\x1aE\xdf\xa3)"
    rb"|RIFF.{4}AVI[ X]|GIF8[79]a|FLV\x01|OggS|\x00\x00\x01[\xb3\xba]|\x06\x0e\x2b\x34|0&\xb2u\x8ef\xcf\x11"
    rb"|G.{187}G.{187}G|.{4}G.{191}G.{191}G",
    re.DOTALL,
)
# Playlists (ffconcat, m3u8, SDP) name other files and hosts: deny every protocol but "file", every demuxer but these.
_AV_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,matroska,webm,avi,gif,flv,ogg,mpeg,mpegvideo,mpegts,mxf,asf",
}
os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "|".join(f"{key};{value}" for key, value in _AV_OPTIONS.items())
os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"  # quiet: what goes wrong is said by VideoError and VideoInfo.notes


cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class VideoError(ValueError):
    """A file that is no usable video; the message is the reason in one line, without the path."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video file really holds; plain values, so that `VideoInfo(**json.loads(...))` restores it."""

    path: str  # absolute
    frames: int  # that decode
    fps: float  # average
    width: int  # as displayed: rotation applied
    height: int
    codec: str  # for messages
    reader: str  # "opencv" or "pyav"
    gaps: tuple[int, ...] = ()  # n in gaps: frames are missing between n-1 and n, so no clip may contain both
    times: tuple[float, ...] | None = None  # seconds of each frame, only when the frame rate is variable
    notes: tuple[str, ...] = ()  # remarks for the user, one line each

    def __post_init__(self):
        for name in ("gaps", "times", "notes"):  # JSON made lists of them
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))


class _OpenCVReader:
    name = "opencv"

    def __init__(self, path: str):
        try:
            path.encode()
        except UnicodeEncodeError:  # cv2 5.0 dies of a segmentation fault
            raise VideoError("the name is not UTF-8") from None
        one_thread = [cv2.CAP_PROP_N_THREADS, 1] * (os.path.getsize(path) < SMALL_FILE)
        self.capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, one_thread)
        if not self.capture.isOpened():
            raise VideoError("")
        get = self.capture.get
        self.width, self.height = int(get(cv2.CAP_PROP_FRAME_WIDTH)), int(get(cv2.CAP_PROP_FRAME_HEIGHT))
        self.fps, count = get(cv2.CAP_PROP_FPS), get(cv2.CAP_PROP_FRAME_COUNT)
        self.packets = int(count) if 0 < count < 1e9 else 0  # what the header says; -4503599627370496 if it does not
        self.codec = int(get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True).decode("ascii", "replace")
        self.sizes = set()  # unknown: OpenCV scales every frame to the size of the first

    def __iter__(self) -> Iterator[tuple[int, float, Callable[[], np.ndarray]]]:
        failed = 0
        while failed <= MAX_FAILED_READS:
            if self.capture.grab():
                yield failed, self.capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, self._picture
                failed = 0
            else:
                failed += 1

    def _picture(self) -> np.ndarray:
        ok, picture = self.capture.retrieve()
        if not ok:
            raise VideoError("the pixel format cannot be converted to RGB")
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)

    def seek(self, n: int, fps: float) -> bool:
        """Make frame n the next one; False if the time stamps say that it went elsewhere."""
        self.capture.grab()
        start = self.capture.get(cv2.CAP_PROP_POS_MSEC)
        self.capture.set(cv2.CAP_PROP_POS_FRAMES, n - PREROLL)
        grabbed = self.capture.grab()
        arrived = round((self.capture.get(cv2.CAP_PROP_POS_MSEC) - start) / 1000 * fps) == n - PREROLL
        return grabbed and arrived and all(self.capture.grab() for _ in range(PREROLL - 1))

    def close(self) -> None:
        self.capture.release()


class _PyAVReader:
    """Has the software decoders that OpenCV lacks. It never seeks: in open-GOP files that gave corrupt pictures."""

    name = "pyav"

    def __init__(self, path: str):
        try:
            self.container = av.open(path, options=_AV_OPTIONS)
        except (av.error.FFmpegError, OSError, ValueError):
            raise VideoError("") from None
        stream = next(iter(self.container.streams.video), None)
        if stream is None or stream.codec_context is None:
            self.container.close()
            raise VideoError("no video stream" if stream is None else "no decoder for this codec")
        self.stream, context = stream, stream.codec_context
        context.thread_type = "AUTO"
        self.width, self.height, self.codec = context.width, context.height, context.codec.canonical_name
        self.fps = float(stream.average_rate or 0)
        self.packets, self.sizes = 0, set()  # counted on the way

    def __iter__(self) -> Iterator[tuple[int, float, Callable[[], np.ndarray]]]:
        failed, packets = 0, self.container.demux(self.stream)
        while failed <= MAX_FAILED_READS:
            try:
                packet = next(packets)
                self.packets += packet.size > 0 and not packet.is_discard
                frames = packet.decode()
            except (av.error.EOFError, StopIteration):
                return
            except av.error.FFmpegError:
                failed += 1
                continue
            for frame in frames:
                self.sizes.add((frame.height, frame.width))
                yield failed, math.nan if frame.time is None else frame.time, lambda frame=frame: self._picture(frame)
                failed = 0

    def _picture(self, frame: av.VideoFrame) -> np.ndarray:
        if (frame.width, frame.height) != (self.width, self.height):  # as OpenCV does
            frame = frame.reformat(self.width, self.height, format="rgb24")
        return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))

    def close(self) -> None:
        self.container.close()


_READERS = {reader.name: reader for reader in (_OpenCVReader, _PyAVReader)}


def _check_file(path: str) -> str | None:
    """Refuse, before any reader opens it, what is no regular file in a video container; "mp4", "matroska" or None."""
    try:
        if not stat.S_ISREG(mode := os.stat(path).st_mode):  # opening a FIFO would wait for ever
            raise VideoError("a directory" if stat.S_ISDIR(mode) else "not a regular file: a FIFO, socket or device")
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise VideoError("broken link" if os.path.islink(path) else f"cannot be read: {error.strerror}") from None
    if not head:
        raise VideoError("empty file")
    if not (match := _MAGIC.match(head)):
        raise VideoError("not a video")
    return match.lastgroup


Pictures = Iterator[Callable[[], np.ndarray]]  # frames that have been decoded; to make RGB of one takes a call more


def probe_video(
    path: str | Path,
    max_pixels: int = 8192 * 4320,
    watch: Callable[[VideoInfo, Pictures], None] | None = None,
) -> VideoInfo:
    """Decode the whole file once and describe it. Raises VideoError with the reason if it is no usable video.

    max_pixels limits width * height and is checked against the header, before the first frame is decoded.
    watch: for who would decode the file next. It may be called with what the header says, and takes as many pictures as
    it likes while they are decoded. They were `read_frames`' only if the result then equals what the header said.
    """
    path = os.path.abspath(path)  # a relative "a:b.mp4" would be taken for a URL
    container = _check_file(path)
    scans, reason = [], ""
    for reader_class in _READERS.values():
        try:
            reader = reader_class(path)
        except VideoError as error:
            reason = str(error)
            continue
        with closing(reader):
            if reader.width * reader.height > max_pixels:
                raise VideoError(f"{reader.width}x{reader.height} is more than the limit of {max_pixels} pixels")
            pictures = _scan(reader)
            if watch and not scans and 0 < reader.packets <= MOST_CLAIMED and 0 < reader.fps < math.inf:
                header = reader.packets, reader.fps, reader.width, reader.height, reader.codec, reader.name
                watch(VideoInfo(path, *header), pictures)
            for _ in pictures:
                pass
            scans.append(reader)
        if reader.packets == len(reader.times) and not reader.failed:
            break  # else PyAV counts the packets, and may decode more of them
    if not scans:
        unopened = "truncated: no index (moov) can be read" if container == "mp4" else "damaged: no reader opens it"
        raise VideoError(reason or unopened)
    best, last = max(scans, key=lambda scan: len(scan.times)), scans[-1]  # OpenCV when they are equal
    promised, decoded = scans[0].packets, len(best.times)
    if not decoded:
        raise VideoError(f"truncated: the header says {promised} frames, 0 can be decoded")

    steps = np.diff(best.times)
    gaps, lost = _find_gaps(steps, best.failed, max(promised, last.packets) - decoded)
    fps, constant = _frame_rate(np.delete(steps, np.array(gaps, int) - 1), best.fps)
    notes = [f"{lost} undecodable packet{'s' * (lost > 1)}"] if lost else []
    if promised and promised != decoded:
        notes.append(f"header says {promised} frames, {decoded} decode")
    if len(last.sizes) > 1:
        notes.append("size changes inside the stream; every frame is scaled to the size of the first")
    times = None if constant else tuple(time - best.times[0] for time in best.times)
    height, width = best.shape
    return VideoInfo(path, decoded, fps, width, height, best.codec, best.name, tuple(gaps), times, tuple(notes))


def _scan(reader: _OpenCVReader | _PyAVReader) -> Pictures:
    """Decode everything; leaves `times`, `failed` (frame index: failed reads before it) and `shape` on the reader."""
    reader.times, reader.failed, reader.shape = [], {}, (reader.height, reader.width)
    for failed, seconds, picture in reader:
        if not reader.times:
            reader.shape = picture().shape[:2]
        if failed:
            reader.failed[len(reader.times)] = failed
        reader.times.append(seconds)
        yield picture


def _find_gaps(steps: np.ndarray, failed: dict[int, int], missing: int) -> tuple[list[int], int]:
    """(indices of the frames behind a hole, number of lost packets).

    A decoder that reorders B-frames reports a bad packet some frames before the hole, or never. So holes are looked
    for in the time stamps, and the failed reads are added only if the holes do not account for all of them.
    """
    bad = sum(failed.values())
    lost = np.zeros(len(steps))
    if max(bad, missing) > 0 and len(steps) and (steps > 0).all():
        lost = np.maximum(np.rint(steps / np.median(steps)) - 1, 0)
        if lost.sum() > max(bad, missing) or np.count_nonzero(lost) > len(steps) / 10:  # just a variable frame rate
            lost[:] = 0
    holes = {int(n) + 1 for n in np.flatnonzero(lost)}
    if lost.sum() < bad:
        holes |= failed.keys() - {0}
    return sorted(holes), max(bad, int(lost.sum()))


def _frame_rate(steps: np.ndarray, header_fps: float) -> tuple[float, bool]:
    """(fps, constant): constant if every frame lies within a quarter frame of n / fps. 25 if nothing is known."""
    rates = [float(header_fps)] if 0 < header_fps <= 1000 else []
    if not len(steps) or not (steps > 0).all():  # one frame, or no usable time stamps
        return (rates or [25.0])[0], True
    rates.append(1 / float(steps.mean()))
    for fps in rates:
        if np.abs(np.cumsum(steps) * fps - np.arange(1, len(steps) + 1)).max() < 0.25:
            return fps, True
    return rates[-1], False


def read_frames(info: VideoInfo, indices: Sequence[int]) -> np.ndarray:
    """Frames of a probed video: uint8 RGB (len(indices), height, width, 3); indices ascend and may repeat.

    Frame n is the n-th frame of sequential decoding. Raises VideoError if a frame cannot be had.
    """
    frames = np.empty((len(indices), info.height, info.width, 3), np.uint8)
    for target, frame in zip(frames, iter_frames(info, indices), strict=True):
        target[:] = frame
    return frames


def iter_frames(info: VideoInfo, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """The frames of `read_frames` one by one, for videos that do not fit into memory: uint8 RGB (height, width, 3)."""
    indices = [int(n) for n in indices]
    if any(n > later for n, later in pairwise(indices)):
        raise ValueError("indices must ascend")
    if not indices:
        return
    if indices[0] < 0 or indices[-1] >= info.frames:
        raise VideoError(f"frames {indices[0]} to {indices[-1]} wanted of {info.frames}")
    given = 0
    reader, start = _open_at(info, indices[0])
    with closing(reader):
        for n, (_, _, picture) in enumerate(reader, start):
            if n == indices[given]:
                if (pixels := picture()).shape != (info.height, info.width, 3):
                    break
                while indices[given] == n:
                    yield pixels
                    given += 1
                    if given == len(indices):
                        return
    raise VideoError(f"frame {indices[given]} is not what was probed: the file has changed")


def _open_at(info: VideoInfo, n: int) -> tuple[_OpenCVReader | _PyAVReader, int]:
    """A reader and the index of its next frame: n after a seek, else 0."""
    seekable = _check_file(info.path) is not None and info.reader == "opencv" and not info.gaps and info.times is None
    reader = _READERS[info.reader](info.path)
    if n >= SEEK_FROM and seekable:
        if reader.seek(n, info.fps):
            return reader, n
        reader.close()
        reader = _READERS[info.reader](info.path)
    return reader, 0
