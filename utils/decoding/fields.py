"""Frames of two fields: progressive ones made of them, film told from video, and what is not marked as such noticed."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import av
import numpy as np
from av.filter import Graph
from av.filter.context import FilterContext

from utils.decoding.video_info import VideoError

MOST_LOOKED_AT = 100  # interlaced frames, to tell film
MOST_COMBS = 40  # frames, to tell combs
FEWEST_COMBED = 5  # frames
COMB_LINES, COMB_LEVELS = 6, 10  # in a row that alternate, by so many of 255
COMB_SHARE = 0.01  # of the pixels that move; of fields woven and encoded at low rates 0.02, of test patterns 0.003
UNMARKED = (
    "looks interlaced and is not marked so: two moments in every frame; make it progressive first, "
    "ffmpeg -i CLIP -vf bwdif=deint=all NEW"
)
Numbered = tuple[int, av.VideoFrame]


class FilterGraph:
    """FFmpeg's filters for frames that may change their format on the way.

    add_filters(graph, source, frame): appends to the graph what such frames need, and returns the last filter. Raises
    VideoError for frames that the filters refuse.
    """

    def __init__(self, add_filters):
        self.add_filters, self.kind, self.source, self.sink = add_filters, None, None, None

    def fits(self, frame: av.VideoFrame) -> bool:
        return self.kind == _kind(frame)

    def build(self, frame: av.VideoFrame) -> None:
        self.kind, graph = _kind(frame), Graph()
        graph.threads = 1
        width, height, layout, matrix, value_range, _ = self.kind
        with self._refusals():
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
        with self._refusals():
            self.source.push(frame)

    def pull(self) -> Iterator[av.VideoFrame]:
        """What has come out by now."""
        with self._refusals(), suppress(av.error.BlockingIOError, av.error.EOFError):
            while True:
                yield self.sink.pull()

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except av.error.FFmpegError as error:
            width, height, layout, *_ = self.kind
            what = f"{layout} frames of {width}x{height}"
            raise VideoError(f"interlaced {what} cannot be made progressive ({error}); re-encode it") from None


def _kind(frame: av.VideoFrame) -> tuple:
    colours = int(frame.colorspace), int(frame.color_range), int(frame.color_trc)
    return frame.width, frame.height, frame.format.name, *colours


def progressive(frames: Iterable[Numbered]) -> Iterator[Numbered]:
    """Numbered frames, deinterlaced by bwdif from the first on that is marked as interlaced: one frame of two fields.

    The two frames beside an interlaced one are part of what it becomes, so begin one before the first that matters.
    (The first of all is made of itself alone, in FFmpeg's own tools too.)
    """
    graph, waiting = FilterGraph(_deinterlace), deque()
    for number, frame in frames:
        if graph.kind is None and not frame.interlaced_frame:
            yield number, frame
            continue
        if not graph.fits(frame):
            if graph.kind:
                yield from _flushed(graph, waiting)
            graph.build(frame)
        waiting.append(number)
        graph.push(_at(frame, len(waiting)))
        yield from _named(graph, waiting)
    if graph.kind:
        yield from _flushed(graph, waiting)


class Pulldown:
    """Tells film that was telecined, which repeats two of ten fields in turns, from video by FFmpeg's idet."""

    def __init__(self):
        self.graph, self.frames, self.repeated = FilterGraph(_detect_repeated), 0, Counter()

    def add(self, frame: av.VideoFrame) -> None:
        """The next interlaced frame."""
        if self.frames == MOST_LOOKED_AT:
            return
        if not self.graph.fits(frame):
            self.graph.build(frame)
        self.frames += 1
        self.graph.push(frame)
        self.repeated.update(seen.metadata.get("lavfi.idet.repeated.current_frame") for seen in self.graph.pull())

    def found(self) -> bool:
        return min(self.repeated["top"], self.repeated["bottom"]) > 0.12 * max(self.frames, 15)


class Combs:
    """Tells frames of two fields that are not marked as such: FFmpeg's idet sees fields in most of them, and where they
    move lines alternate. (idet alone sees fields in some test patterns.)"""

    def __init__(self):
        self.graph, self.frames, self.shares, self.previous = FilterGraph(_detect_fields), 0, [], None

    @property
    def full(self) -> bool:
        return self.frames == MOST_COMBS

    def add(self, frame: av.VideoFrame) -> None:
        """The next frame; one that is marked as interlaced says nothing."""
        if self.full or frame.interlaced_frame:
            return
        if not self.graph.fits(frame):
            self.graph.build(frame)
            self.previous = None
        self.frames += 1
        self.graph.push(frame)
        for seen in self.graph.pull():
            fields = seen.metadata.get("lavfi.idet.single.current_frame") in ("tff", "bff")
            self.shares.append(_comb_share(seen, self.previous) if fields and self.previous else 0.0)
            self.previous = seen

    def found(self) -> bool:
        combed = sum(share > COMB_SHARE for share in self.shares)
        return combed >= max(FEWEST_COMBED, len(self.shares) / 3)


def _comb_share(frame: av.VideoFrame, previous: av.VideoFrame) -> float:
    """Of the pixels that differ from the frame before: in how many do lines alternate. Both are of grey."""
    light, before = (grey.to_ndarray().astype(np.int16) for grey in (frame, previous))
    moves = np.abs(light - before) > COMB_LEVELS
    steps = np.diff(light, axis=0)
    up, down = steps > COMB_LEVELS, steps < -COMB_LEVELS
    turns = (up[1:] & down[:-1]) | (down[1:] & up[:-1])
    lines = max(0, len(turns) - COMB_LINES + 1)
    combs = np.logical_and.reduce([turns[n : n + lines] for n in range(COMB_LINES)])
    middle = moves[COMB_LINES // 2 :][:lines]
    return float((combs & middle).sum() / max(1, middle.sum()))


def _detect_fields(graph: Graph, source: FilterContext, frame: av.VideoFrame) -> FilterContext:
    grey = graph.add("format", "gray")
    _detect_repeated(graph, source, frame).link_to(grey)
    return grey


def _detect_repeated(graph: Graph, source: FilterContext, frame: av.VideoFrame) -> FilterContext:
    idet = graph.add("idet")
    source.link_to(idet)
    return idet


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
        yield waiting.popleft(), frame


def _flushed(graph: FilterGraph, waiting: deque) -> Iterator[Numbered]:
    graph.push(None)
    yield from _named(graph, waiting)
    if waiting:
        raise VideoError("deinterlacing lost a frame")
