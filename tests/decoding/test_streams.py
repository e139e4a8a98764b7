"""Of several streams the one that a player shows."""

from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition

from tests.clips import moving_clip
from tests.decoding.reading import assert_looks_like, read_all

BLUE = np.full((48, 64, 3), (0, 0, 255), np.uint8)


def mux(path, streams: list[tuple]) -> None:
    """Each stream is (codec, frames, disposition); a codec "data" is a track of bytes, "aac" one of sound."""
    with av.open(str(path), "w") as output:
        made = []
        for codec, frames, disposition in streams:
            if codec == "data":
                made.append(output.add_data_stream("bin_data"))
            elif codec == "aac":
                made.append(output.add_stream("aac", rate=16000))
            else:
                stream = output.add_stream(codec, rate=10)
                stream.height, stream.width = frames[0].shape[:2]
                stream.pix_fmt = {"mjpeg": "yuvj420p", "png": "rgb24"}.get(codec, "yuv420p")
                stream.codec_context.time_base = Fraction(1, 10)
                stream.disposition = disposition
                made.append(stream)
        for stream, (codec, frames, _) in zip(made, streams, strict=True):
            if codec == "data":
                packet = av.Packet(b"telemetry")
                packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1, 10)
                output.mux(packet)
                continue
            if codec == "aac":
                sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                sound.sample_rate = 16000
                output.mux([*stream.encode(sound), *stream.encode(None)])
                continue
            for n, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
                frame.pts, frame.time_base = n, Fraction(1, 10)
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))


CLIP, NONE, DEFAULT = moving_clip(12, 48, 64), Disposition(0), Disposition.default
PREVIEW = np.full((12, 16, 32, 3), 99, np.uint8)
OTHER = np.full((12, 96, 128, 3), 99, np.uint8)


@pytest.mark.parametrize(
    ("name", "streams", "noted"),
    [
        ("a.mkv", [("mjpeg", [BLUE], NONE), ("libx264", CLIP, DEFAULT)], True),
        ("a.mkv", [("mjpeg", [BLUE], DEFAULT), ("libx264", CLIP, NONE)], True),
        ("a.mov", [("png", [BLUE], NONE), ("libx264", CLIP, NONE)], True),
        ("a.mp4", [("libx264", CLIP, DEFAULT), ("png", [BLUE], Disposition.attached_pic)], True),
        ("a.mp4", [("png", [BLUE], Disposition.attached_pic), ("libx264", CLIP, DEFAULT)], True),
        ("a.mp4", [("libx264", PREVIEW, NONE), ("libx264", CLIP, DEFAULT)], True),
        ("a.mkv", [("libx264", OTHER, NONE), ("libx264", CLIP, DEFAULT)], True),
        ("a.mov", [("libx264", PREVIEW, NONE), ("libx264", CLIP, DEFAULT), ("mjpeg", [BLUE], NONE)], True),
        ("a.mp4", [("aac", None, None), ("libx264", CLIP, NONE)], False),
        ("a.ts", [("data", None, None), ("libx264", CLIP, NONE)], False),
        ("a.mp4", [("mjpeg", [BLUE], NONE)], False),
    ],
    ids=[
        *("cover first", "cover marked as the default", "cover as PNG", "attached behind", "attached in front"),
        *("small preview first", "a larger one that is not the default", "three", "sound", "data", "only a picture"),
    ],
)
def test_the_stream_that_a_player_shows_is_read(tmp_path, name, streams, noted):
    mux(tmp_path / name, streams)
    info, frames = read_all(tmp_path / name)
    assert bool([note for note in info.notes if "more video stream" in note]) == noted
    if len(streams) == 1:
        assert info.frames == 1 and np.abs(frames[0].astype(int) - BLUE).max() < 8
    else:
        assert_looks_like(frames, CLIP, 14)
