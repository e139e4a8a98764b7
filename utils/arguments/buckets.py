"""Buckets: the sizes and lengths of clips that training batches have, when not all have the same."""

import re
from typing import NamedTuple

from utils.cli import Bad

ASPECTS = (1 / 2, 9 / 16, 2 / 3, 3 / 4, 1, 4 / 3, 3 / 2, 16 / 9, 2)  # width by height, of automatic buckets
SHARES_OF_LENGTH = (1, 2, 4)  # automatic buckets hold all of --num_frames, a half, a quarter


class Bucket(NamedTuple):
    """The shape of a sample: height and width in px, and its number of frames."""

    height: int
    width: int
    frames: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}x{self.frames}"


def bucket(text: str) -> str | Bad:
    """An argparse type: WxHxT, width and height in px and frames."""
    match = re.fullmatch(r"([0-9]{1,4})x([0-9]{1,4})x([0-9]{1,4})", text)
    if not match or not all(8 <= int(side) <= 4096 for side in match.groups()[:2]) or not 1 <= int(match[3]) <= 1024:
        return Bad(f"got {text}, must be width x height x frames, px from 8 to 4096, e.g. 96x64x16")
    return str(as_bucket(text))


def as_bucket(text: str) -> Bucket:
    width, height, frames = map(int, text.split("x"))
    return Bucket(height, width, frames)


def automatic_buckets(height: int, width: int, num_frames: int, multiple: int) -> list[Bucket]:
    """About height * width pixels in the usual aspect ratios, sides multiples of `multiple`; three lengths of each."""
    pixels, sizes = height * width, {(height, width): None}
    for aspect in ASPECTS:
        sides = (pixels / aspect) ** 0.5, (pixels * aspect) ** 0.5
        sizes.setdefault(tuple(max(multiple, round(side / multiple) * multiple) for side in sides))
    lengths = dict.fromkeys(max(2, num_frames // share) for share in SHARES_OF_LENGTH)
    return [Bucket(*size, frames) for size in sizes for frames in lengths]
