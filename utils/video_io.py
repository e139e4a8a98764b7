"""Video files in, video files out; frames are uint8 RGB (T, H, W, 3) everywhere.

Reading: `find_videos` lists a folder, `probe_video` decodes a file once and says what it really holds, `read_frames`
and `iter_frames` return frames by index. OpenCV reads; PyAV takes over where OpenCV delivers less than the container
holds (its wheel opens AV1 and then yields nothing). Headers are not believed: a frame exists when it decodes.

Writing: a file is written under a temporary name, closed, read back, and only then moved to its place, so that a full
disk or a kill never leaves half a video.
"""

import errno
import io
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.files import whole_file

VIDEO_EXTENSIONS = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .gif .mpg .mpeg .ts .mts .m2ts .wmv .asf .flv .ogv .3gp .mxf".split()  # noqa: SIM905
)
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
# Each row minus the one above, in which only runs are looked for: a third of the time of Pillow's, and no larger.
_PNG_OPTIONS = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
_PNG_OPTIONS += [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]


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


# Finding --------------------------------------------------------------------------------------------------------------


def find_videos(folder: str | Path, recursive: bool = False) -> list[Path]:
    """Everything with a video extension (any case) but hidden files and folders, in natural order: clip2, clip10.

    Broken links and FIFOs are listed too, so that `probe_video` can say what is wrong with them. Linked folders are
    entered, each once. Raises OSError if `folder` cannot be listed.
    """
    found, pending, entered = [], [str(folder)], set()
    while pending:
        status = os.stat(current := pending.pop())
        if (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        with os.scandir(current) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                    pending += [entry.path] * recursive
                elif os.path.splitext(entry.name)[1].lower() in VIDEO_EXTENSIONS:
                    found.append(entry.path)
    return [Path(path) for path in sorted(found, key=_natural_key)]


def _natural_key(path: str) -> tuple:
    parts = re.split(r"([0-9]+)", path.casefold())
    return [int(part) if n % 2 else part for n, part in enumerate(parts)], path


# Two readers, one face: header fields, and iteration over (failed reads before this frame, seconds, get picture) ------


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


# Probing and reading --------------------------------------------------------------------------------------------------


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


# Pixels ---------------------------------------------------------------------------------------------------------------


def resize_frames(
    frames: np.ndarray, height: int, width: int, mode: str = "crop", anchor: tuple[float, float] = (0.5, 0.5)
) -> np.ndarray:
    """(T, H, W, 3) uint8 -> (T, height, width, 3) uint8.

    mode "crop" covers the target and cuts the rest, "pad" fits inside and adds black bars, "stretch" ignores the
    aspect ratio; `anchor` places the picture: the fraction (y, x) of the slack above and to the left of it.
    """
    if mode not in ("crop", "pad", "stretch"):
        raise ValueError(f'mode must be "crop", "pad" or "stretch", not {mode!r}')
    H, W, h, w = *frames.shape[1:3], height, width
    if mode != "stretch":
        scale = (max if mode == "crop" else min)(height / H, width / W)
        h, w = max(1, round(H * scale)), max(1, round(W * scale))
    top, left = round((height - h) * anchor[0]), round((width - w) * anchor[1])  # negative when cropping
    out = np.zeros((len(frames), height, width, 3), np.uint8)
    for target, frame in zip(out, frames, strict=True):
        if h < H or w < W:  # average what shrinks, then interpolate what grows
            frame = cv2.resize(frame, (min(w, W), min(h, H)), interpolation=cv2.INTER_AREA)
        if h > H or w > W:
            frame = cv2.resize(frame, (w, h), interpolation=cv2.INTER_CUBIC)
        frame = frame[max(0, -top) :, max(0, -left) :][:height, :width]
        target[max(0, top) :, max(0, left) :][: frame.shape[0], : frame.shape[1]] = frame
    return out


def to_uint8(video) -> np.ndarray:
    """Tensor or array (3, T, H, W) in [-1, 1] -> uint8 (T, H, W, 3), rounded and clipped. Raises ValueError on NaN."""
    if hasattr(video, "detach"):
        video = video.detach().float().cpu().numpy()
    video = np.asarray(video, np.float32).transpose(1, 2, 3, 0)
    if np.isnan(video).any():
        raise ValueError("the video contains NaN")
    return np.rint(np.clip((video + 1) * 127.5, 0, 255)).astype(np.uint8)


# Writing --------------------------------------------------------------------------------------------------------------


def write_video(path: str | Path, frames: np.ndarray, fps: float) -> None:
    """H.264 MP4 for players and browsers: yuv420p, crf 17, index in front. The same frames give the same bytes.

    frames: uint8 RGB (T, H, W, 3); an odd size grows by repeating the last row or column, because yuv420p is even.
    Raises ValueError for bad arguments, OSError if the file cannot be written in full.
    """
    frames = _checked(frames, fps)
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    pictures = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in frames]
    rate = Fraction(fps).limit_denominator(10_000)
    options = {"crf": "17", "preset": "veryfast", "x264-params": "mbtree=0"}, {"movflags": "+faststart"}
    _encode(path, pictures, range(len(frames)), rate, "libx264", "yuv420p", *options)


def write_gif(path: str | Path, frames: np.ndarray, fps: float) -> None:
    """GIF that loops forever, 256 colours per frame; arguments and errors as in write_video, odd sizes stay.

    Times are multiples of 10 ms that on average match fps, which is at most 50: viewers slow faster ones down to 10.
    """
    frames = _checked(frames, fps)
    ticks = [round(n * max(100 / fps, 2)) for n in range(len(frames) + 1)]
    options = {}, {"final_delay": str(ticks[-1] - ticks[-2])}
    _encode(path, [_quantize(frame) for frame in frames], ticks[:-1], Fraction(100), "gif", "pal8", *options)


def write_frames(folder: str | Path, frames: np.ndarray) -> None:
    """00000.png, 00001.png, ... in `folder`; what is left there of a longer clip is removed."""
    frames = _checked(frames)
    for n, frame in enumerate(frames):
        write_image(Path(folder, f"{n:05d}.png"), frame)
    for stale in Path(folder).glob("[0-9]" * 5 + ".png"):
        if int(stale.stem) >= len(frames):
            stale.unlink()


def write_image(path: str | Path, image: np.ndarray) -> None:
    """uint8 RGB (H, W, 3) -> PNG, or JPEG (quality 95, full colour resolution) if the path ends in .jpg.

    Raises OSError if the file cannot be written in full.
    """
    image = _checked(np.asarray(image)[None])[0]
    if Path(path).suffix.lower() == ".jpg":
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
        encoded = buffer.getvalue()
    else:
        encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _PNG_OPTIONS)[1].tobytes()
    with _atomic(path) as temporary, open(temporary, "w+b") as file:
        file.write(encoded)
        file.seek(0)
        if file.read() != encoded:
            raise VideoError("the image read back is not the image written")


def _checked(frames: np.ndarray, fps: float = 1.0) -> np.ndarray:
    frames = np.ascontiguousarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError(f"frames must be uint8 (T, H, W, 3), not {frames.dtype} {frames.shape}")
    if not 0 < fps < math.inf:
        raise ValueError(f"fps must be positive, not {fps}")
    return frames


@contextmanager
def _atomic(path: str | Path) -> Iterator[str]:
    """whole_file, for which what goes wrong in writing and in reading back is the fault of the disk: an OSError."""
    with whole_file(path) as temporary:
        try:
            yield str(temporary)
        except av.error.FFmpegError as error:
            raise OSError(error.errno, error.strerror) from None
        except VideoError as error:
            raise OSError(errno.EIO, str(error)) from None


def _encode(path, pictures, ticks, rate: Fraction, codec, pix_fmt, codec_options, container_options) -> None:
    """Encode `pictures`, shown at `ticks` / rate seconds, and count what can be read back."""
    with _atomic(path) as temporary:
        with av.open(temporary, "w", options=container_options) as container:
            stream = container.add_stream(codec, rate=rate, options=codec_options)
            stream.width, stream.height, stream.pix_fmt = pictures[0].width, pictures[0].height, pix_fmt
            stream.codec_context.thread_count = 1  # the bytes must not depend on the machine
            stream.codec_context.time_base = 1 / rate
            for tick, picture in zip(ticks, pictures, strict=True):
                picture.pts, picture.time_base = tick, 1 / rate
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
        info = probe_video(temporary)  # a full disk is not always an error of the muxer
        if (info.frames, info.width, info.height) != (len(ticks), picture.width, picture.height):
            raise VideoError(f"only {info.frames} of {len(ticks)} frames can be read back; is the disk full?")


def _quantize(frame: np.ndarray) -> av.VideoFrame:
    image = Image.fromarray(frame).quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    colours = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
    palette = np.full((256, 4), 255, np.uint8)  # ARGB
    palette[: len(colours), 1:] = colours
    return av.VideoFrame.from_ndarray((np.asarray(image), palette), format="pal8")


# Contact sheet --------------------------------------------------------------------------------------------------------


def contact_sheet(
    rows: Sequence[np.ndarray], labels: Sequence[str], max_frames: int = 8, scale: int | None = None
) -> np.ndarray:
    """One clip per row: evenly spaced frames under the clip's label; returns an uint8 RGB image (H, W, 3).

    rows: uint8 clips (T, H, W, 3), enlarged by the whole number `scale` without smoothing, by default to about 128
    pixels. Labels take two lines at most; characters that Pillow's own font lacks are written as escapes.
    """
    gap, line_height, font, strips = 4, 18, ImageFont.load_default(14), []
    for clip in map(_checked, rows):
        clip = clip[np.linspace(0, len(clip) - 1, min(max_frames, len(clip))).round().astype(int)]
        times = scale or max(1, round(128 / max(clip.shape[1:3])))
        clip = np.pad(clip.repeat(times, 1).repeat(times, 2), ((0, 0), (0, gap), (gap, 0), (0, 0)), constant_values=255)
        strips.append(np.concatenate(clip, axis=1))
    width = max(strip.shape[1] for strip in strips) + gap
    texts = [_wrap(_drawable(label), font, width - 2 * gap) for label in labels]
    height = sum(line_height * len(text) + gap + len(strip) for text, strip in zip(texts, strips, strict=True))

    sheet, y = Image.new("RGB", (width, height + gap), "white"), gap
    draw = ImageDraw.Draw(sheet)
    for text, strip in zip(texts, strips, strict=True):
        for line in text:
            draw.text((gap, y), line, "black", font)
            y += line_height
        sheet.paste(Image.fromarray(strip), (0, y + gap))
        y += gap + len(strip)
    return np.asarray(sheet)


@cache
def _has_glyph(character: str) -> bool:
    font = ImageFont.load_default(14)
    return bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))  # the box that stands for "no glyph"


def _drawable(text: str) -> str:
    known = (c if c.isprintable() and _has_glyph(c) else c.encode("unicode_escape").decode() for c in text)
    return "".join(known)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int, max_lines: int = 2) -> list[str]:
    lines = [""]
    for word in re.findall(r"\S{1,12}\s*|\s+", text):  # long words may break anywhere
        if font.getlength(lines[-1] + word.rstrip()) > width and lines[-1]:
            if len(lines) == max_lines:
                return [*lines[:-1], lines[-1].rstrip() + " …"]
            lines.append("")
        lines[-1] += word
    return lines
