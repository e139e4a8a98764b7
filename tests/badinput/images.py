"""Images that infer_svd.py is asked to animate, I1 to I14."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.badinput.place import Place, row
from tests.clips import moving_clip

LEFT_RIGHT = np.repeat(np.array([[40] * 50 + [200] * 50], np.uint8), 80, 0)  # 100x80, dark to the left


def animated(place: Place, path: Path, *words: str, expected: tuple[int, int] = (40, 200)) -> str:
    """The picture is taken, and its left and its right are as bright as expected in what the model is given."""
    place.animate(path, "--resize_mode", "stretch").done(*words)
    (seen,) = place.out.glob("*.input.png")
    pixels = np.asarray(Image.open(seen)).astype(float)
    found = pixels[:, 4:28].mean(), pixels[:, 36:60].mean()
    assert np.abs(np.subtract(found, expected)).max() < 12, f"brightness {found}, not {expected}"
    return f"taken, brightness {found[0]:.0f} and {found[1]:.0f}" + "".join(f", {word}" for word in words)


def png_header(path: Path, width: int, height: int) -> Path:
    """A PNG that promises so many pixels and holds none of them."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def saved(place: Place, name: str, image: Image.Image, **how) -> Path:
    image.save(place.folder / name, **how)
    return place.folder / name


@row("I1", "CMYK is taken")
def i1(place: Place) -> str:
    image = Image.fromarray(LEFT_RIGHT).convert("RGB").convert("CMYK")
    return animated(place, saved(place, "a.jpg", image, quality=95))


@row("I2", "a palette is taken")
def i2(place: Place) -> str:
    return animated(place, saved(place, "a.png", Image.fromarray(LEFT_RIGHT).convert("P")))


@row("I3", "what is transparent becomes white, and that is said")
def i3(place: Place) -> str:
    image = Image.fromarray(LEFT_RIGHT).convert("RGBA")
    image.putalpha(Image.fromarray(np.where(LEFT_RIGHT < 100, 0, 255).astype(np.uint8)))
    path = saved(place, "a.png", image)
    return animated(place, path, "what is transparent becomes white", expected=(255, 200))


@row("I4", "the rotation in EXIF is applied")
def i4(place: Place) -> str:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter to the right
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(LEFT_RIGHT)))
    return animated(place, saved(place, "a.jpg", turned, exif=exif, quality=95))


@row("I5", "16-bit grey keeps its brightness")
def i5(place: Place) -> str:
    return animated(place, saved(place, "a.png", Image.fromarray(LEFT_RIGHT.astype(np.uint16) * 257)))


@row("I6", "of an animation the first picture is taken, and that is said")
def i6(place: Place) -> str:
    first, second = Image.fromarray(LEFT_RIGHT), Image.fromarray(255 - LEFT_RIGHT)
    path = saved(place, "a.gif", first, save_all=True, append_images=[second])
    return animated(place, path, "only the first of its 2 pictures is used")


@row("I7", "a truncated JPEG or PNG is refused by name")
def i7(place: Place) -> str:
    for name in ("a.jpg", "a.png"):
        path = saved(place, name, Image.fromarray(moving_clip(1, 90, 120)[0]))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        said = place.animate(path).refused("--input_image", name, "cannot be read")
    return said


@row("I8", "a picture of 1x1 is refused")
def i8(place: Place) -> str:
    path = saved(place, "a.png", Image.new("RGB", (1, 1)))
    return place.animate(path, model="./no_model").refused("--input_image", "a.png", "at least 64x64")


@row("I9", "a picture of 20000x20000 is refused from its header, with the limit")
def i9(place: Place) -> str:
    path = png_header(place.folder / "a.png", 20000, 20000)
    return place.animate(path, model="./no_model").refused("--input_image", "a.png", "400000000", "limit")


@row("I10", "a picture of 12000x10000 is refused from its header, with the limit")
def i10(place: Place) -> str:
    path = png_header(place.folder / "a.png", 12000, 10000)
    return place.animate(path, model="./no_model").refused("--input_image", "a.png", "12000x10000", "limit")


@row("I11", "an empty file and text named .png are refused by name")
def i11(place: Place) -> str:
    for content in (b"", b"not a picture"):
        (place.folder / "a.png").write_bytes(content)
        said = place.animate(place.folder / "a.png").refused("--input_image", "a.png", "cannot be read")
    return said


@row("I12", "a file that is not there and a folder without pictures are refused by name")
def i12(place: Place) -> str:
    (place.folder / "empty").mkdir()
    place.animate(place.folder / "empty").refused("--input_image", "empty", "holds no image")
    return place.animate(place.folder / "absent.png").refused("--input_image", "absent.png", "give a picture")


@row("I13", "an address is not fetched")
def i13(place: Place) -> str:
    return place.animate("http://127.0.0.1:9/a.png").refused("--input_image", "there is no http")


@row("I14", "an extreme shape is cropped to the size, and that is said where most is lost")
def i14(place: Place) -> str:
    path = saved(place, "a.png", Image.fromarray(moving_clip(1, 64, 640)[0]))
    outcome = place.animate(path).done("more than two thirds of it are cropped away", "--resize_mode pad")
    return outcome.out.splitlines()[0]
