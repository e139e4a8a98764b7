"""Vectors per frame beside a clip, such as actions, a camera's path or speed: .csv, .parquet or .npy.

A table names its numbers, and a column of seconds, if there is one, says when each row holds. Without it the rows are
spread evenly over the clip, whatever their rate.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.conditions.maps import ConditionError

SUFFIXES = (".csv", ".parquet", ".npy")
TIME_COLUMNS = ("time", "timestamp", "seconds", "t")
SPARE = 1.5  # rows by which a table may begin later or end sooner than its clip


@dataclass(frozen=True)
class Vectors:
    """Rows of numbers (N, D), their names, and the seconds at which they hold (N,), None if they are spread evenly."""

    names: tuple[str, ...]
    values: np.ndarray
    times: np.ndarray | None


def find_vectors(folder: Path, stem: str) -> Path | None:
    return next((path for suffix in SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()), None)


def read_vectors(path: Path) -> Vectors:
    """Raises ConditionError for what is no table of numbers, or is not in the order of time."""
    readers = {".csv": _from_csv, ".parquet": _from_parquet, ".npy": _from_npy}
    if path.suffix not in readers:
        raise ConditionError(f"is no table of numbers: give {', '.join(SUFFIXES)}")
    names, values = readers[path.suffix](path)
    if not len(values) or not len(names):
        raise ConditionError("is empty")
    if not np.isfinite(values).all():
        raise ConditionError("has values that are no numbers")
    lower = [name.lower() for name in names]
    column = next((lower.index(name) for name in TIME_COLUMNS if name in lower), None)
    if column is None or path.suffix == ".npy":
        return Vectors(names, values, None)
    times = values[:, column].astype(np.float64)
    if (np.diff(times) <= 0).any():
        raise ConditionError(f"its times, in column {names[column]}, do not rise")
    kept = [n for n in range(len(names)) if n != column]
    if not kept:
        raise ConditionError("has a column of times alone")
    return Vectors(tuple(names[n] for n in kept), values[:, kept], times)


def _from_npy(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    try:
        array = np.load(path, allow_pickle=False)
        values = array.astype(np.float32)
    except (ValueError, OSError, EOFError, TypeError) as error:
        raise ConditionError(f"is no .npy file of numbers ({' '.join(str(error).split())[:100]})") from None
    if values.ndim not in (1, 2):
        raise ConditionError(f"has shape {values.shape}; give (N, D), a row for each moment")
    values = values.reshape(len(values), -1)
    return tuple(f"v{n}" for n in range(values.shape[1])), values


def _from_csv(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]
        names, values = tuple(name.strip() for name in rows[0]), [[float(each) for each in row] for row in rows[1:]]
        if any(len(row) != len(names) for row in values):
            raise ValueError("rows of several lengths")
        return names, np.array(values, np.float32).reshape(len(values), len(names))
    except (ValueError, OSError, IndexError, csv.Error) as error:
        raise ConditionError(f"is no table with a line of names and lines of numbers ({error})") from None


def _from_parquet(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ConditionError("reading Parquet needs pyarrow: pip install pyarrow") from None
    try:
        table = parquet.read_table(path)
        columns = [np.asarray(column.to_numpy(), np.float32) for column in table.columns]
    except (pyarrow.ArrowException, OSError, ValueError, TypeError) as error:
        raise ConditionError(f"is no Parquet table of numbers ({' '.join(str(error).split())[:100]})") from None
    return tuple(table.column_names), np.stack(columns, axis=1) if columns else np.zeros((0, 0), np.float32)


def at_times(vectors: Vectors, times: np.ndarray, duration: float) -> np.ndarray:
    """The numbers at these seconds of a clip, (T, D) float32, linear between rows. Raises ConditionError if they do not
    reach over a clip of this duration."""
    rows = len(vectors.values)
    own = vectors.times
    if own is None:
        own = np.arange(rows) * (duration / rows)
        if rows == 1 and len(times) > 1:
            raise ConditionError("has a single row; it needs one for each moment")
    else:
        spare = SPARE * (np.median(np.diff(own)) if rows > 1 else 0.0)
        if own[0] > spare or own[-1] < times.max() - spare - 1e-9:
            raise ConditionError(f"holds from {own[0]:.2f} to {own[-1]:.2f} s, its clip lasts {duration:.2f} s")
    columns = [np.interp(times, own, column) for column in vectors.values.T]
    return np.stack(columns, axis=1).astype(np.float32)


def chosen_columns(found: Vectors, names: list[str]) -> Vectors:
    """Those of a model, by name; arrays have no names, so their width has to do. Raises ConditionError for others."""
    if all(name in found.names for name in names):
        order = [found.names.index(name) for name in names]
        return Vectors(tuple(names), found.values[:, order], found.times)
    unnamed = found.names == tuple(f"v{n}" for n in range(len(found.names)))
    if unnamed and len(found.names) == len(names):
        return Vectors(tuple(names), found.values, found.times)
    raise ConditionError(f"has {', '.join(found.names)}; the model was trained with {', '.join(names)}")
