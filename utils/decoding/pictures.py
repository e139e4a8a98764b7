"""From decoded frames to RGB as it is displayed: progressive, SDR, square pixels, upright, transparent parts white."""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress

import av
import numpy as np
from av.filter import Graph
from av.filter.context import FilterContext
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from utils.decoding.hdr import TRANSFERS, to_sdr
from utils.decoding.video_info import VideoError

# Matrices of H.273.
UNSPECIFIED, RESERVED = 2, 3  # both mean BT.601 to FFmpeg's own tools
UNKNOWN_MATRICES = {8: "YCgCo", 10: "BT.2020 with constant luminance", 14: "ICtCp", 15: "IPT-C2"}
Numbered = tuple[int, av.VideoFrame]


class Pictures:
    """Frames of one stream as RGB arrays.

    width, height: as displayed, whatever the frames have. `transparent`: whether one had a pixel that is not opaque.
    Raises VideoError if a frame cannot be converted.
    """

    def __init__(self, width: int, height: int):
        self.size, self.to_rgb, self.transparent = (width, height), VideoReformatter(), False
        self.orientation = None  # of the first frame, as of all others

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """uint8 RGB (height, width, 3)."""
        turns, mirrored = self.orientation = self.orientation or orientation(frame)
        width, height = self.size if turns % 2 == 0 else self.size[::-1]
        try:
            if frame.colorspace == RESERVED:
                frame.colorspace = UNSPECIFIED
            hdr = TRANSFERS.get(frame.color_trc)
            layout = "rgb48le" if hdr else "rgba" if has_alpha(frame) else "rgb24"
            picture = self.to_rgb.reformat(
                frame,
                width,
                height,
                layout,
                interpolation=Interpolation.BICUBIC,
                dst_color_range=ColorRange.JPEG,
                threads=1,
            )
            pixels = picture.to_ndarray()
        except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
            what = UNKNOWN_MATRICES.get(frame.colorspace, f"the pixel format {frame.format.name}")
            raise VideoError(f"{what} cannot be converted to RGB ({error}); re-encode it") from None
        if hdr:
            pixels = to_sdr(pixels, hdr)
        elif layout == "rgba":
            self.transparent = self.transparent or bool((pixels[..., 3] < 255).any())
            pixels = on_white(pixels)
        if mirrored:
            pixels = pixels[:, ::-1]
        return np.ascontiguousarray(np.rot90(pixels, turns)) if mirrored or turns else pixels


def has_alpha(frame: av.VideoFrame) -> bool:
    return frame.format.has_palette or any(component.is_alpha for component in frame.format.components)


def on_white(pixels: np.ndarray) -> np.ndarray:
    """uint8 RGBA (H, W, 4), alpha not multiplied in -> uint8 RGB (H, W, 3)."""
    alpha = pixels[..., 3:].astype(np.uint32)
    return ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """(quarter turns counter-clockwise, mirrored left to right before that), from the display matrix of a frame.

    A matrix of another angle counts as the nearest quarter.
    """
    matrix = next((data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return 0, False
    (a, b), (c, d) = np.frombuffer(bytes(matrix), "<i4")[:9].reshape(3, 3)[:2, :2].astype(float)
    mirrored = bool(a * d - b * c < 0)  # x' = a x + c y, y' = b x + d y, and y grows downwards
    if mirrored:
        a, b = -a, -b
    return round(np.arctan2(-b, a) / (np.pi / 2)) % 4, mirrored


class FilterGraph:
    """FFmpeg's filters for frames that may change their format on the way.

    add_filters(graph, source, frame): appends to the graph what such frames need, and returns the last filter.
    """

    def __init__(self, add_filters):
        self.add_filters, self.kind, self.source, self.sink = add_filters, None, None, None

    def fits(self, frame: av.VideoFrame) -> bool:
        return self.kind == _kind(frame)

    def build(self, frame: av.VideoFrame) -> None:
        self.kind, graph = _kind(frame), Graph()
        graph.threads = 1
        width, height, layout, matrix, value_range, _ = self.kind
        self.source = graph.add(
            "buffer",
            video_size=f"{width}x{height}",
            pix_fmt=layout,
            time_base="1/1",
            pixel_aspect="1/1",
            colorspace=str(matrix),
            range=str(value_range),
        )
        self.sink = graph.add("buffersink")
        self.add_filters(graph, self.source, frame).link_to(self.sink)
        graph.configure()
        self.graph = graph

    def push(self, frame: av.VideoFrame | None) -> None:
        self.source.push(frame)

    def pull(self) -> Iterator[av.VideoFrame]:
        """What has come out by now."""
        with suppress(av.error.BlockingIOError, av.error.EOFError):
            while True:
                yield self.sink.pull()


def _kind(frame: av.VideoFrame) -> tuple:
    colours = int(frame.colorspace), int(frame.color_range), int(frame.color_trc)
    return frame.width, frame.height, frame.format.name, *colours


def progressive(frames: Iterable[Numbered]) -> Iterator[Numbered]:
    """Numbered frames, deinterlaced by bwdif from the first on that is marked as interlaced: one frame of two fields.

    The two frames beside an interlaced one are part of what it becomes, so begin one before the first that matters.
    """
    graph, waiting, before = FilterGraph(_deinterlace), deque(), None
    for number, frame in frames:
        if graph.kind is None and not frame.interlaced_frame:
            yield number, frame
            before = frame
            continue
        if not graph.fits(frame):
            if graph.kind:
                yield from _flushed(graph, waiting)
            graph.build(frame)
            if before is not None and graph.fits(before):
                waiting.append(None)
                graph.push(_at(before, 0))
        waiting.append(number)
        graph.push(_at(frame, len(waiting)))
        before = None
        yield from _named(graph, waiting)
    if graph.kind:
        yield from _flushed(graph, waiting)


def _deinterlace(graph: Graph, source: FilterContext, frame: av.VideoFrame) -> FilterContext:
    bwdif = graph.add("bwdif", mode="send_frame", parity="auto", deint="interlaced")
    source.link_to(bwdif)
    return bwdif


def _at(frame: av.VideoFrame, pts: int) -> av.VideoFrame:
    """The time stamps that filters want: whatever, but ascending."""
    frame.pts = pts
    return frame


def _named(graph: FilterGraph, waiting: deque) -> Iterator[Numbered]:
    for frame in graph.pull():
        if (number := waiting.popleft()) is not None:
            yield number, frame


def _flushed(graph: FilterGraph, waiting: deque) -> Iterator[Numbered]:
    graph.push(None)
    yield from _named(graph, waiting)
    if waiting:
        raise VideoError("deinterlacing lost a frame")
