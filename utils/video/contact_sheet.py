"""Clips on one picture, to be looked at: a row each, with its label."""

import re
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.video.frames import checked_frames


def contact_sheet(
    rows: Sequence[np.ndarray], labels: Sequence[str], max_frames: int = 8, scale: int | None = None
) -> np.ndarray:
    """One clip per row: evenly spaced frames under the clip's label; returns an uint8 RGB image (H, W, 3).

    rows: uint8 clips (T, H, W, 3), enlarged by the whole number `scale` without smoothing, by default to about 128
    pixels. Labels take two lines at most; characters that Pillow's own font lacks are written as escapes.
    """
    gap, line_height, font, strips = 4, 18, ImageFont.load_default(14), []
    for clip in map(checked_frames, rows):
        clip = clip[np.linspace(0, len(clip) - 1, min(max_frames, len(clip))).round().astype(int)]
        times = scale or max(1, round(128 / max(clip.shape[1:3])))
        clip = np.pad(clip.repeat(times, 1).repeat(times, 2), ((0, 0), (0, gap), (gap, 0), (0, 0)), constant_values=255)
        strips.append(np.concatenate(clip, axis=1))
    width = max(strip.shape[1] for strip in strips) + gap
    texts = [_wrap(_drawable(label), font, width - 2 * gap) for label in labels]
    height = sum(line_height * len(text) + gap + len(strip) for text, strip in zip(texts, strips, strict=True))

    sheet, y = Image.new("RGB", (width, height + gap), "white"), gap
    draw = ImageDraw.Draw(sheet)
    for text, strip in zip(texts, strips, strict=True):
        for line in text:
            draw.text((gap, y), line, "black", font)
            y += line_height
        sheet.paste(Image.fromarray(strip), (0, y + gap))
        y += gap + len(strip)
    return np.asarray(sheet)


@cache
def _has_glyph(character: str) -> bool:
    font = ImageFont.load_default(14)
    return bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))  # the box that stands for "no glyph"


def _drawable(text: str) -> str:
    known = (c if c.isprintable() and _has_glyph(c) else c.encode("unicode_escape").decode() for c in text)
    return "".join(known)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int, max_lines: int = 2) -> list[str]:
    lines = [""]
    for word in re.findall(r"\S{1,12}\s*|\s+", text):  # long words may break anywhere
        if font.getlength(lines[-1] + word.rstrip()) > width and lines[-1]:
            if len(lines) == max_lines:
                return [*lines[:-1], lines[-1].rstrip() + " …"]
            lines.append("")
        lines[-1] += word
    return lines
