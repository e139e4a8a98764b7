"""Frames that leave as they are made: into an mp4 that plays before it is whole, or as y4m for a player."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np

STDOUT = "-"


class _Sink:
    """A file as PyAV wants one. FFmpeg goes on as if nothing were when a write fails, so what went wrong is kept."""

    def __init__(self, file: BinaryIO):
        self.file, self.error = file, None

    def write(self, data: bytes) -> int:
        if self.error is None:
            try:
                self.file.write(data)
                self.file.flush()
            except OSError as error:
                self.error = error
        return len(data)


@contextmanager
def frame_stream(where: str, height: int, width: int, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that sends frames, uint8 RGB (T, height, width, 3), which have left when it returns.

    where: "-", standard output as y4m (`| ffplay -`), or a path: y4m if it ends so, else a fragmented H.264 mp4, which
    is good up to its last frame whenever it breaks off. An odd size grows by repeating the last row or column. Raises
    BrokenPipeError when the player is closed, another OSError if the file cannot be written.
    """
    raw = where == STDOUT or where.endswith(".y4m")
    options = {"flush_packets": "1"} | ({} if raw else {"movflags": "empty_moov+frag_every_frame+default_base_moof"})
    quality = {} if raw else {"preset": "veryfast", "tune": "zerolatency", "crf": "17"}
    rate, sent = Fraction(fps).limit_denominator(10_000), 0
    with ExitStack() as stack:
        whither = sys.stdout.fileno() if where == STDOUT else where  # not sys.stdout, which may hide that nobody reads
        sink = _Sink(stack.enter_context(open(whither, "wb", closefd=where != STDOUT)))
        container = stack.enter_context(
            av.open(sink, "w", format="yuv4mpegpipe" if raw else "mp4", options=options, buffer_size=2**16)
        )
        stream = container.add_stream("wrapped_avframe" if raw else "libx264", rate=rate, options=quality)
        stream.height, stream.width, stream.pix_fmt = height + height % 2, width + width % 2, "yuv420p"
        stream.codec_context.time_base = 1 / rate

        def mux(packets) -> None:
            container.mux(packets)
            if sink.error:
                raise sink.error

        def send(frames: np.ndarray) -> None:
            nonlocal sent
            for frame in np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge"):
                picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
                picture.pts, picture.time_base = sent, 1 / rate
                mux(stream.encode(picture))
                sent += 1

        yield send
        mux(stream.encode())
        container.close()
        if sink.error:
            raise sink.error
