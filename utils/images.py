"""Any picture a user may have, as RGB: rotated by its EXIF, alpha on white, grey, palette, CMYK, 16-bit."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from utils.cli import UserError, printable

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
MAX_PIXELS = 8192 * 8192


def read_image(path: Path, flag: str, remedy: str = "give a picture, PNG or JPEG say") -> np.ndarray:
    """The (first) picture in a file, uint8 RGB (H, W, 3).

    Raises UserError that names flag, file and remedy if it cannot be read or has more than MAX_PIXELS.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{flag}: {printable(path)} has {image.width}x{image.height} pixels; make it smaller")
            return np.asarray(_as_rgb(ImageOps.exif_transpose(image)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "there is no such file" if not path.exists() else printable(error)
        raise UserError(f"{flag}: {printable(path)} cannot be read ({reason}); {remedy}") from None


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # Pillow's own conversion clips these to white
        values = np.asarray(image, np.float64)
        top = 65535 if image.mode.startswith("I") else max(1.0, float(values.max(initial=0)))
        top = 255 if 1 < values.max(initial=0) <= 255 else top
        return Image.fromarray(np.rint(np.clip(values / top, 0, 1) * 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
