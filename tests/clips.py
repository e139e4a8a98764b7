"""Clips for the tests: arrays that move, and files with one oddity each. All are generated here."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def moving_clip(num_frames: int = 16, height: int = 64, width: int = 64) -> np.ndarray:
    """uint8 RGB (T, H, W, 3): a smooth gradient that drifts, with a bright square whose place tells the frame."""
    y, x, t = np.mgrid[:height, :width, :num_frames].transpose(0, 3, 1, 2)
    phase = 2 * np.pi * np.stack([x / width + t / 16, y / height - t / 16, (x + y) / (height + width)], -1)
    clip = (110 + 60 * np.sin(phase)).astype(np.uint8)
    side = max(1, min(height, width) // 4)
    for n, frame in enumerate(clip):
        top, left = 5 * n % (height - side + 1), 7 * n % (width - side + 1)
        frame[top : top + side, left : left + side] = 230
    return clip


def in_one_thread(codec: str, options: dict[str, str]) -> dict[str, str]:
    """Options of an encoder. x265 in several threads writes other pictures than it is given, once in fifty files on a
    busy machine."""
    if codec != "libx265":
        return options
    params = [options["x265-params"]] if "x265-params" in options else []
    return options | {"x265-params": ":".join([*params, "pools=none", "frame-threads=1"])}


def encode(
    path: Path | str,
    clip: Iterable[np.ndarray],
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    fps: int = 10,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    ticks: Sequence[int] | None = None,
    rotation: int = 0,
) -> Path:
    """Encode a clip with PyAV. `ticks` are time stamps in 1/1000 s (default: constant rate); `rotation`, in degrees
    counter-clockwise, goes into the display matrix."""
    clip = list(clip)
    time_base = Fraction(1, 1000) if ticks is not None else Fraction(1, fps)
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=fps, options=in_one_thread(codec, options or {}))
        stream.height, stream.width = clip[0].shape[:2]
        stream.pix_fmt, stream.codec_context.thread_count = pix_fmt, 1
        stream.codec_context.time_base = time_base
        if rotation:
            stream.set_display_rotation(rotation)
        pictures = [av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24") for frame in clip]
        for n, picture in enumerate(pictures):
            picture.pts, picture.time_base = (n if ticks is None else ticks[n]), time_base
        for picture in [*pictures, None]:
            output.mux(stream.encode(picture))
    return Path(path)


def damage(path: Path, packet: int, before: int = 0) -> Path:
    """Overwrite the n-th video packet in place, and as many bytes `before` it, as a bad sector would."""
    with av.open(str(path)) as container:
        hit = bytes(list(container.demux(video=0))[packet])
    data = path.read_bytes()
    start = data.index(hit) - before
    path.write_bytes(data[:start] + b"\xff" * (len(hit) + before) + data[start + before + len(hit) :])
    return path


def cut(path: Path, fraction: float) -> Path:
    """Keep the first part of a file; fraction 0 keeps everything up to the media data of an MP4."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction) if fraction else data.index(b"mdat") + 8])
    return path


def audio_only(path: Path) -> Path:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        output.mux(stream.encode(sound))
        output.mux(stream.encode())
    return path


def has_encoder(codec: str) -> bool:
    try:
        av.codec.Codec(codec, "w")
    except ValueError:
        return False
    return True


def panning_clip(
    speed: float, num_frames: int = 20, fps: float = 10, height: int = 96, width: int = 128, seed: int = 0
) -> np.ndarray:
    """uint8 RGB (T, H, W, 3): a smooth texture that moves to the left by `speed` short sides per second.

    The same texture at any size and rate: it is a sum of waves in units of the short side.
    """
    rng = np.random.default_rng(seed)
    waves = rng.normal(size=(24, 2)) * 12  # radians per short side
    phases, colours = rng.uniform(0, 2 * np.pi, 24), rng.normal(size=(24, 3))
    y, x = np.mgrid[:height, :width] / min(height, width)
    frames = []
    for n in range(num_frames):
        angles = y[..., None] * waves[:, 0] + (x + speed * n / fps)[..., None] * waves[:, 1] + phases
        frames.append(128 + 16 * np.sin(angles) @ colours)
    return np.clip(frames, 0, 255).astype(np.uint8)
