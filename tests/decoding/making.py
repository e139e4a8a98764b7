"""Files whose every pixel is known: what is written are code values, chosen here by the definitions of H.273, and never
what a converter makes of RGB."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.clips import in_one_thread

MATRICES = {"bt601": (5, 0.299, 0.114), "bt709": (1, 0.2126, 0.0722), "bt2020": (9, 0.2627, 0.0593)}  # H.273: Kr, Kb
LOSSLESS = {
    "libx264": {"qp": "0"},
    "libx265": {"x265-params": "lossless=1:log-level=none"},
    "libvpx-vp9": {"lossless": "1"},
    "ffv1": {},
}


def code_values(rgb: tuple[int, int, int], matrix: str, full: bool, bits: int) -> list[int]:
    """R'G'B' of 255 -> Y'CbCr as integers (H.273, 8.3)."""
    _, kr, kb = MATRICES[matrix]
    red, green, blue = (value / 255 for value in rgb)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))
    top, scale = 2**bits - 1, 2 ** (bits - 8)
    if full:
        values = [luma * top, *(value * top + 2 ** (bits - 1) for value in chroma)]
    else:
        values = [(16 + 219 * luma) * scale, *((128 + 224 * value) * scale for value in chroma)]
    return [min(round(value), top) for value in values]


def yuv_frame(pixel_format: str, planes: Iterable) -> av.VideoFrame:
    """A frame of planar samples: for each plane a number, or an array of its size."""
    planes = [np.asarray(plane) for plane in planes]
    shape = next((plane.shape for plane in planes if plane.ndim), (64, 64))
    frame = av.VideoFrame(*shape[::-1], pixel_format)
    kind = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
    for plane, values in zip(frame.planes, planes, strict=True):
        samples = np.zeros((plane.height, plane.line_size // kind().itemsize), kind)
        samples[:, : plane.width] = values
        plane.update(samples.tobytes())
    return frame


def write(
    path: Path,
    frames: Iterable[av.VideoFrame],
    codec: str = "ffv1",
    options: dict | None = None,
    fps: int = 10,
    matrix: str | None = None,
    **tags,
) -> Path:
    """The frames as they are, one after the other. tags: attributes of the encoder, as color_range or color_trc."""
    frames = list(frames)
    if matrix:
        tags["colorspace"] = MATRICES[matrix][0]
    with av.open(str(path), "w") as output:
        options = LOSSLESS.get(codec, {}) if options is None else options
        stream = output.add_stream(codec, rate=fps, options=in_one_thread(codec, options))
        context = stream.codec_context
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, frames[0].format.name
        context.time_base, context.thread_count = Fraction(1, fps), 1
        for name, value in tags.items():
            setattr(context, name, value)
        for n, frame in enumerate(frames):  # the same frame may come more than once
            frame.pts, frame.time_base = n, context.time_base
            for name in ("colorspace", "color_range", "color_trc", "color_primaries"):
                if name in tags:
                    setattr(frame, name, tags[name])
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path
