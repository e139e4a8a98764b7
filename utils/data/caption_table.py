"""Captions in a table beside the videos: metadata.jsonl, .csv or .parquet, as the datasets library's videofolder reads
them, or any one table whose columns are named."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from utils.cli import printable
from utils.data.captions import MAX_CAPTION_BYTES, decoded
from utils.data.errors import DataError

TABLE_SUFFIXES = (".jsonl", ".csv", ".parquet")
VIDEO_COLUMNS = ("file_name", "video", "video_path", "path", "file", "filename")
CAPTION_COLUMNS = ("text", "caption", "captions", "prompt")


def find_table(data_dir: Path) -> Path | None:
    """The table of a data folder: metadata.*, else the only one in it; None without any.

    Raises DataError for several.
    """
    tables = sorted(path for path in data_dir.iterdir() if path.suffix.lower() in TABLE_SUFFIXES and path.is_file())
    tables = [path for path in tables if not path.name.startswith(".")]
    tables = [path for path in tables if path.stem == "metadata"] or tables
    if len(tables) > 1:
        names = ", ".join(printable(path.name) for path in tables[:3])
        raise DataError(f"{printable(data_dir)}: holds several tables ({names}); leave one, or call it metadata.csv")
    return tables[0] if tables else None


def read_table(
    path: Path, encoding: str, video_column: str | None = None, caption_column: str | None = None
) -> dict[Path, tuple[str, ...]]:
    """{video file: its captions}; a file in several rows, or with a list of captions, has several; () without any.

    Columns are those named, or else the first of VIDEO_COLUMNS and CAPTION_COLUMNS that there is. Raises DataError that
    names file, line or column, and remedy.
    """
    found: dict[Path, list[str]] = {}
    columns = None
    for number, row in enumerate(_rows(path, encoding), 1):
        if columns is None:
            columns = (
                _column(path, row, video_column, VIDEO_COLUMNS, "--video_column"),
                _column(path, row, caption_column, CAPTION_COLUMNS, "--caption_column"),
            )
        name, texts = row.get(columns[0]), row.get(columns[1])
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            raise DataError(f"{printable(path)}: row {number} names no file under {columns[0]!r}; complete it")
        texts = texts if isinstance(texts, list) else [texts]
        captions = found.setdefault(path.parent / name.strip(), [])
        for text in texts:
            if text is not None and not isinstance(text, str):
                kind = type(text).__name__
                raise DataError(f"{printable(path)}: row {number} has {kind} under {columns[1]!r}; it must be text")
            text = " ".join((text or "").replace("\0", "").split())
            if len(text.encode()) > MAX_CAPTION_BYTES:
                raise DataError(f"{printable(path)}: row {number} has a caption over 64 KB; shorten it")
            if text and text not in captions:
                captions.append(text)
    if not found:
        raise DataError(f"{printable(path)}: the table is empty; it needs a row for each video")
    return {_beside(file): tuple(captions) for file, captions in found.items()}


def _beside(file: Path) -> Path:
    """The file, or the one of that name in videos/ beside the table."""
    inside = file.parent / "videos" / file.name
    return inside if not file.exists() and inside.exists() else file


def _rows(path: Path, encoding: str) -> Iterator[dict]:
    if path.suffix.lower() == ".parquet":
        yield from _parquet_rows(path)
        return
    text = decoded(path, encoding)
    if path.suffix.lower() == ".csv":
        try:
            yield from csv.DictReader(io.StringIO(text, newline=""), strict=True)
        except csv.Error as error:
            raise DataError(f"{printable(path)}: is no CSV ({error}); save it again") from None
        return
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("no object")
        except ValueError as error:
            raise DataError(f"{printable(path)}: line {number} is no JSON object ({error}); correct it") from None
        yield row


def _parquet_rows(path: Path) -> Iterator[dict]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{printable(path)}: reading Parquet needs pyarrow: pip install pyarrow") from None
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{printable(path)}: is no Parquet file, or damaged ({reason})") from None


def _column(path: Path, row: dict, named: str | None, usual: tuple[str, ...], flag: str) -> str:
    if named is None:
        named = next((name for name in usual if name in row), None)
    if named is None or named not in row:
        has = ", ".join(printable(str(name)) for name in list(row)[:8])
        raise DataError(f"{printable(path)}: the columns are {has}; {flag} says which one to take")
    return named
