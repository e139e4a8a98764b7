"""PNG (ISO/IEC 15948:2003) of 8-bit RGB: each row minus the one above, compressed by ISA-L where that is installed.

OpenCV and Pillow spend most of their time in zlib, with which a dataset of frames takes three to five times as long.
"""

import struct

import numpy as np

try:
    from isal import isal_zlib as zlib
except ImportError:  # no wheel for this machine
    import zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DEPTH, _RGB, _UP = 8, 2, 2  # bits, colour type, filter type


def encode_png(image: np.ndarray) -> bytes:
    """uint8 RGB (H, W, 3) -> the bytes of a PNG that holds it exactly. They may differ from one kind of CPU to another,
    for each has its own way of compressing; the pixels do not."""
    height, width = image.shape[:2]
    flat = image.reshape(height, 3 * width)
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = _UP
    rows[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, _DEPTH, _RGB, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")
    return _SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
