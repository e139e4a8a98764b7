"""The videos of a folder."""

import os
from pathlib import Path

from utils.files import natural_key

VIDEO_EXTENSIONS = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .gif .mpg .mpeg .ts .mts .m2ts .wmv .asf .flv .ogv .3gp .mxf".split()  # noqa: SIM905
)


def find_videos(folder: str | Path, recursive: bool = False) -> list[Path]:
    """Everything with a video extension (any case) but hidden files and folders, in natural order: clip2, clip10.

    Broken links and FIFOs are listed too, so that `probe_video` can say what is wrong with them. Linked folders are
    entered, each once. Raises OSError if `folder` cannot be listed.
    """
    found, pending, entered = [], [str(folder)], set()
    while pending:
        status = os.stat(current := pending.pop())
        if (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        with os.scandir(current) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                    pending += [entry.path] * recursive
                elif os.path.splitext(entry.name)[1].lower() in VIDEO_EXTENSIONS:
                    found.append(entry.path)
    return [Path(path) for path in sorted(found, key=natural_key)]
