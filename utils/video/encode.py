"""Videos, frames and images out; frames are uint8 RGB (T, H, W, 3).

A file is written under a temporary name, closed, read back, and only then moved to its place, so that a full disk or a
kill never leaves half a video.
"""

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from utils.decoding.probe import probe_video
from utils.decoding.video_info import VideoError
from utils.files import whole_file
from utils.video.frames import checked_frames
from utils.video.png import encode_png


def write_video(
    path: str | Path,
    frames: np.ndarray,
    fps: float,
    sound: np.ndarray | None = None,
    sound_rate: int = 16_000,
    key_every: int | None = None,
) -> None:
    """H.264 MP4 for players and browsers: yuv420p, crf 17, index in front. The same frames give the same bytes.

    frames: uint8 RGB (T, H, W, 3); an odd size grows by repeating the last row or column, because yuv420p is even.
    sound: (N,) float32 in [-1, 1], mono, sound_rate samples a second, written as AAC. key_every: a frame of so many can
    be decoded by itself, and none leans on a later one: larger, but read quickly anywhere.
    Raises ValueError for bad arguments, OSError if the file cannot be written in full.
    """
    frames = checked_frames(frames, fps)
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    pictures = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in frames]
    rate = Fraction(fps).limit_denominator(10_000)
    options = {"crf": "17", "preset": "veryfast", "x264-params": "mbtree=0"}, {"movflags": "+faststart"}
    if key_every:
        options[0].update(g=str(key_every), bf="0")
    track = None if sound is None else (sound, sound_rate)
    _encode(path, pictures, range(len(frames)), rate, "libx264", "yuv420p", *options, track)


def write_gif(path: str | Path, frames: np.ndarray, fps: float) -> None:
    """GIF that loops forever, 256 colours per frame; arguments and errors as in write_video, odd sizes stay.

    Times are multiples of 10 ms that on average match fps, which is at most 50: viewers slow faster ones down to 10.
    """
    frames = checked_frames(frames, fps)
    ticks = [round(n * max(100 / fps, 2)) for n in range(len(frames) + 1)]
    options = {}, {"final_delay": str(ticks[-1] - ticks[-2])}
    _encode(path, [_quantize(frame) for frame in frames], ticks[:-1], Fraction(100), "gif", "pal8", *options)


def write_frames(folder: str | Path, frames: np.ndarray) -> None:
    """00000.png, 00001.png, ... in `folder`; what is left there of a longer clip is removed."""
    frames = checked_frames(frames)
    for n, frame in enumerate(frames):
        write_image(Path(folder, f"{n:05d}.png"), frame)
    for stale in Path(folder).glob("[0-9]" * 5 + ".png"):
        if int(stale.stem) >= len(frames):
            stale.unlink()


def write_image(path: str | Path, image: np.ndarray) -> None:
    """uint8 RGB (H, W, 3) -> PNG, or JPEG (quality 95, full colour resolution) if the path ends in .jpg.

    Raises OSError if the file cannot be written in full.
    """
    image = checked_frames(np.asarray(image)[None])[0]
    if Path(path).suffix.lower() == ".jpg":
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
        encoded = buffer.getvalue()
    else:
        encoded = encode_png(image)
    with atomic(path) as temporary, open(temporary, "w+b") as file:
        file.write(encoded)
        file.seek(0)
        if file.read() != encoded:
            raise VideoError("the image read back is not the image written")


@contextmanager
def atomic(path: str | Path) -> Iterator[str]:
    """whole_file, for which what goes wrong in writing and in reading back is the fault of the disk: an OSError."""
    with whole_file(path) as temporary:
        try:
            yield str(temporary)
        except av.error.FFmpegError as error:
            raise OSError(error.errno, error.strerror) from None
        except VideoError as error:
            raise OSError(errno.EIO, str(error)) from None


def _encode(
    path, pictures, ticks, rate: Fraction, codec, pix_fmt, codec_options, container_options, track=None
) -> None:
    """Encode `pictures`, shown at `ticks` / rate seconds, and count what can be read back. track: (samples, their
    rate)."""
    with atomic(path) as temporary:
        with av.open(temporary, "w", options=container_options) as container:
            stream = container.add_stream(codec, rate=rate, options=codec_options)
            stream.width, stream.height, stream.pix_fmt = pictures[0].width, pictures[0].height, pix_fmt
            stream.codec_context.thread_count = 1  # the bytes must not depend on the machine
            stream.codec_context.time_base = 1 / rate
            voice = container.add_stream("aac", rate=track[1], layout="mono") if track else None
            for tick, picture in zip(ticks, pictures, strict=True):
                picture.pts, picture.time_base = tick, 1 / rate
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
            if track:
                spoken = av.AudioFrame.from_ndarray(track[0][None], format="fltp", layout="mono")
                spoken.sample_rate, spoken.pts = track[1], 0
                container.mux([*voice.encode(spoken), *voice.encode()])
        info = probe_video(temporary)  # a full disk is not always an error of the muxer
        if (info.frames, info.width, info.height) != (len(ticks), picture.width, picture.height):
            raise VideoError(f"only {info.frames} of {len(ticks)} frames can be read back; is the disk full?")


def _quantize(frame: np.ndarray) -> av.VideoFrame:
    image = Image.fromarray(frame).quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    colours = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
    palette = np.full((256, 4), 255, np.uint8)  # ARGB
    palette[: len(colours), 1:] = colours
    return av.VideoFrame.from_ndarray((np.asarray(image), palette), format="pal8")
