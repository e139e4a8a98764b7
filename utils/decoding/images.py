"""Any picture a user may have, as RGB: rotated by its EXIF, alpha on white, grey, palette, CMYK, 16-bit."""

import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from utils.cli import UserError, printable
from utils.decoding.video_info import STILL_SUFFIXES, Section

IMAGE_SUFFIXES = (*STILL_SUFFIXES, ".gif")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # and no EPS, for which Pillow would start a program
MAX_PIXELS = 8192 * 8192


class ImageError(Exception):
    """What is wrong with a picture, to follow its name."""

    def __init__(self, what: str, remedy: str = ""):
        super().__init__(what)
        self.remedy = remedy


def read_image(path: Path, flag: str, remedy: str = "give a picture, PNG or JPEG say") -> np.ndarray:
    """The (first) picture in a file, uint8 RGB (H, W, 3).

    Raises UserError that names flag, file and remedy if it cannot be read or has more than MAX_PIXELS.
    """
    try:
        return decode_image(path)
    except ImageError as error:
        raise UserError(f"{flag}: {printable(path)} {error}; {error.remedy or remedy}") from None


def decode_image(path: str | Path, section: Section | None = None) -> np.ndarray:
    """The (first) picture in a file, uint8 RGB (H, W, 3). Raises ImageError with what is wrong with it.

    section: where it lies in another file.
    """
    if not section and not os.path.isfile(path):  # opening a FIFO would wait for ever
        what = "not a regular file" if os.path.exists(path) else "there is no such file"
        raise ImageError(f"cannot be read ({what})")
    try:
        if section:
            with open(section.file, "rb") as file:
                file.seek(section.start)
                path = io.BytesIO(file.read(section.size))
        quiet = warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning)
        with quiet, Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.width}x{image.height} pixels, the limit is {MAX_PIXELS} in all"
                raise ImageError(f"has {size}", remedy="make it smaller")
            return np.asarray(_as_rgb(ImageOps.exif_transpose(image)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"cannot be read ({printable(error)})") from None


def what_is_lost(path: Path, width: int, height: int, resize_mode: str) -> list[str]:
    """What a user should know when the picture in a readable file becomes RGB of width x height."""
    with Image.open(path, formats=FORMATS) as image:
        pictures = getattr(image, "n_frames", 1)
        size = ImageOps.exif_transpose(image).size if pictures == 1 else image.size
        notes = [f"only the first of its {pictures} pictures is used"] if pictures > 1 else []
        notes += ["what is transparent becomes white"] * _is_transparent(image)
    shape = size[0] / size[1] / (width / height)
    if resize_mode == "crop" and not 1 / 3 <= shape <= 3:
        notes.append("more than two thirds of it are cropped away; --resize_mode pad shows all")
    return notes


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # Pillow's own conversion clips these to white
        values = np.asarray(image, np.float64)
        top = 65535 if image.mode.startswith("I") else max(1.0, float(values.max(initial=0)))
        top = 255 if 1 < values.max(initial=0) <= 255 else top
        return Image.fromarray(np.rint(np.clip(values / top, 0, 1) * 255).astype(np.uint8)).convert("RGB")
    if _is_transparent(image):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
