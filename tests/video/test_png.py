"""PNGs: exact by every reader, no larger than OpenCV's, with and without ISA-L."""

import io
import zlib

import av
import cv2
import numpy as np
import pytest
from PIL import Image

import utils.video.png as png_module
from tests.clips import moving_clip
from utils.video.png import encode_png


def pictures(height: int, width: int) -> dict[str, np.ndarray]:
    film = cv2.resize(moving_clip(1)[0], (width, height), interpolation=cv2.INTER_CUBIC)
    return {
        "film": film,
        "part of a larger one": np.tile(film, (2, 2, 1))[:height, :width],
        "flat": np.full((height, width, 3), (200, 30, 7), np.uint8),
        "noise": np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8),
    }


@pytest.mark.parametrize("compressor", ["as installed", "zlib"])
@pytest.mark.parametrize("shape", [(1, 1), (37, 63), (90, 160)])
def test_a_png_is_exact_for_every_reader_and_no_larger_than_opencvs(shape, compressor, monkeypatch):
    if compressor == "zlib":  # ISA-L has no wheel for this machine
        monkeypatch.setattr(png_module, "zlib", zlib)
    for name, picture in pictures(*shape).items():
        encoded = encode_png(picture)
        with Image.open(io.BytesIO(encoded)) as image:
            image.load()
            assert image.mode == "RGB" and np.array_equal(np.asarray(image), picture), name
        opencvs = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(cv2.cvtColor(opencvs, cv2.COLOR_BGR2RGB), picture), name
        with av.open(io.BytesIO(encoded)) as file:
            assert np.array_equal(next(file.decode(video=0)).to_ndarray(format="rgb24"), picture), name
        usual = len(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1])
        assert len(encoded) <= 1.05 * usual + 100, name


def test_a_png_whose_bytes_change_is_refused():
    encoded = bytearray(encode_png(moving_clip(1)[0]))
    encoded[len(encoded) // 2] ^= 1
    with pytest.raises((OSError, SyntaxError)), Image.open(io.BytesIO(encoded)) as image:
        image.load()
