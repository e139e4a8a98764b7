"""Files that are whole or absent, and disks that are full.

What is being written has a name that starts with PARTIAL, so that what a killed process leaves can be told and removed.
"""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.cli import UserError, printable

PARTIAL = ".partial-"
FULL = {errno.ENOSPC: "disk full", errno.EDQUOT: "disk quota reached", errno.EFBIG: "largest possible file reached"}


def partial_path(path: Path) -> Path:
    """A new name beside `path`, with the same ending."""
    return path.with_name(f"{PARTIAL}{uuid.uuid4().hex}{path.suffix}")


@contextmanager
def whole_file(path: str | Path, sync: bool = False) -> Iterator[Path]:
    """A temporary name beside `path`, whose folder is made: on success it replaces `path`, on failure it is removed.

    sync: ask the kernel to put it on the disk first, so that a power cut leaves the old file or the new one. Raises
    OSError that names `path`.
    """
    path = Path(os.path.abspath(path))
    temporary = partial_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if sync:
            sync_to_disk(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_files(folder: Path, needed: int) -> Iterator[Path]:
    """A temporary folder beside `folder`, whose files replace the older ones there when all are written.

    needed: bytes that they will take. Raises UserError if the disk is full.
    """
    with _partial_folder(folder, needed) as partial:
        yield partial
        folder.mkdir(exist_ok=True)
        for path in sorted(partial.iterdir()):
            os.replace(path, folder / path.name)


@contextmanager
def whole_folder(folder: Path, needed: int) -> Iterator[Path]:
    """The same, but the temporary folder takes the place of `folder` and of all that was in it."""
    with _partial_folder(folder, needed) as partial:
        yield partial
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)


@contextmanager
def _partial_folder(folder: Path, needed: int) -> Iterator[Path]:
    partial = partial_path(folder)
    try:
        with explain_full_disk(folder, needed):
            partial.mkdir(parents=True)
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str, sync: bool = False) -> None:
    """Write a whole file or nothing."""
    with whole_file(path, sync) as temporary:
        # Names that are no text, such as GBK in a UTF-8 system, become what JSON reads back as the same name.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def sync_to_disk(path: Path) -> None:
    """Ask the kernel to put a file or folder on the disk: a rename alone does not survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explain_full_disk(path: Path, needed: int, remedy: str = "make room and run again") -> Iterator[None]:
    """Turns what libraries raise on a full disk while `path` is written, `needed` bytes, into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = full_disk(error)
        if reason is None:
            raise
        raise UserError(
            f"{reason} writing {printable(path)}: needs {size(needed)}, {size(free_space(path))} are free; {remedy}"
        ) from None


def full_disk(error: BaseException) -> str | None:
    """What of FULL is behind an error, or None.

    safetensors has an error of its own with the number in its text; torch.save one that speaks of an "unexpected pos",
    raised while the OSError was handled.
    """
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            number = int(found[1])
        if number in FULL:
            return FULL[number]
        error = error.__context__
    return None


def free_space(path: Path) -> int:
    """Bytes that can still be written where `path` is or will be."""
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def size(count: int) -> str:
    """Bytes as people read them: 7.8 MB."""
    unit = min((len(str(count)) - 1) // 3, 4)
    return f"{count / 1000**unit:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[unit]}"


def natural_key(name: str) -> tuple:
    """A sorting key: clip2 before clip10, whatever the case."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if n % 2 else part for n, part in enumerate(parts)], name
