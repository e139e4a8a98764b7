"""Any picture as RGB."""

import numpy as np
import pytest
from PIL import Image

from utils.cli import UserError
from utils.decoding.images import read_image, what_is_lost


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "P", "CMYK", "1", "I;16", "I", "F"])
def test_any_picture_keeps_its_brightness(mode, tmp_path):
    grey = np.full((40, 60), 128, np.uint8)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "I":
        image = Image.fromarray(grey.astype(np.int32) * 257)
    elif mode == "F":
        image = Image.fromarray(grey.astype(np.float32) / 255)
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode)
    path = tmp_path / ("x.tif" if mode in ("CMYK", "F", "I") else "x.png")
    image.save(path)
    found = read_image(path, "--input_image")
    assert found.shape == (40, 60, 3) and found.dtype == np.uint8
    assert abs(found.mean() - 128) < (3 if mode != "1" else 4), found.mean()


def test_transparent_pixels_become_white_and_exif_turns_the_picture(tmp_path):
    pixels = np.zeros((4, 8, 4), np.uint8)
    pixels[:, 4:] = (255, 0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    found = read_image(tmp_path / "alpha.png", "--input_image")
    assert (found[:, :4] == 255).all() and (found[:, 4:] == (255, 0, 0)).all()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg", "--input_image").shape == (8, 4, 3)


def test_what_a_picture_loses_is_said(tmp_path):
    frames = [Image.new("RGB", (640, 100), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    Image.new("RGBA", (100, 100)).save(tmp_path / "b.png")
    Image.new("RGB", (160, 100)).save(tmp_path / "c.jpg")
    gif = what_is_lost(tmp_path / "a.gif", 512, 320, "crop")
    assert "first of its 2 pictures" in gif[0] and "two thirds" in gif[1]
    assert what_is_lost(tmp_path / "b.png", 512, 320, "crop") == ["what is transparent becomes white"]
    assert what_is_lost(tmp_path / "c.jpg", 512, 320, "crop") == []


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 30])
def test_a_file_that_is_no_picture_is_one_line(content, tmp_path):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UserError, match=r"--input_image: .*x.png cannot be read"):
        read_image(tmp_path / "x.png", "--input_image")
