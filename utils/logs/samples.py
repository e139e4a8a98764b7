"""The sample videos that a training draws on its way."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.video.contact_sheet import contact_sheet
from utils.video.encode import write_image, write_video


def write_samples(
    folder: Path, clips: Sequence[np.ndarray], names: Sequence[str], fps: Sequence[float]
) -> tuple[list[Path], np.ndarray]:
    """0.mp4, 1.mp4 ... and contact_sheet.png in `folder`; returns the paths of the videos, and the sheet.

    clips: uint8 (T, H, W, 3) each; names: what to write beside them; fps: frames per second of each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i}.mp4" for i in range(len(clips))]
    for path, clip, rate in zip(paths, clips, fps, strict=True):
        write_video(path, clip, rate)
    sheet = contact_sheet(clips, names)
    write_image(folder / "contact_sheet.png", sheet)
    return paths, sheet
