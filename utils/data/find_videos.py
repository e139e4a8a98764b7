"""The videos and pictures of a folder, and of tar files."""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from utils.cli import printable
from utils.data.errors import DataError
from utils.decoding.video_info import STILL_SUFFIXES, Section
from utils.files import natural_key

VIDEO_EXTENSIONS = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .gif .mpg .mpeg .ts .mts .m2ts .wmv .asf .flv .ogv .3gp .mxf".split()  # noqa: SIM905
)
REPORT_SHEET = "dataset_report.png"


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


def find_stills(folder: Path, images: Path) -> tuple[list[Path], list[Path]]:
    """(folders in `folder` that hold pictures, pictures in `images` if there is such a folder, else in `folder`).

    Hidden ones apart, and what the check of a data folder draws.
    """
    visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    folders = [path for path in visible if path.is_dir() and path != images and any(map(is_still, path.iterdir()))]
    if images.is_dir():
        visible = [path for path in images.iterdir() if not path.name.startswith(".")]
    return folders, [path for path in visible if is_still(path) and path.name != REPORT_SHEET and path.is_file()]


def is_still(path: Path) -> bool:
    return path.suffix.lower() in STILL_SUFFIXES and not path.name.startswith(".")


def find_shards(folder: Path) -> list[Path]:
    """The tar files of a folder in natural order, links to files elsewhere included."""
    found = [path for path in folder.iterdir() if path.suffix.lower() == ".tar" and not path.name.startswith(".")]
    return sorted(found, key=lambda path: natural_key(path.name))


def shard_samples(shard: Path) -> Iterator[tuple[str, dict[str, Section]]]:
    """(key, {extension: where it lies}) of the samples of a WebDataset shard, in their order.

    As there, a sample is what follows each other under one name up to the first dot; hidden names and whatever is no
    plain file are left out. Raises DataError for a file that is no tar, or one that was compressed.
    """
    key, files = None, {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                stem, dot, extension = name.partition(".")
                if not (member.isreg() and stem and dot) or member.issparse() or ".." in folder.split("/"):
                    continue
                if (of_member := f"{folder}/{stem}" if folder else stem) != key:
                    if files:
                        yield key, files
                    key, files = of_member, {}
                files[f".{extension.lower()}"] = Section(os.path.abspath(shard), member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"{printable(shard)}: is no tar file that can be read at any place ({error}); unpack what compressed it"
        ) from None
    if files:
        yield key, files
