"""Tables of numbered rows, each a check with a sentence that says what it shows: tests.badinput and tests.faults."""

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from utils.cli import printable


class NotRun(Exception):
    """Why a row cannot be tried on this machine."""


@dataclass(frozen=True)
class Row:
    """`check` raises AssertionError if the row does not hold, NotRun if it cannot be tried; returns what happened."""

    id: str
    what: str
    check: Callable[["Place"], str]  # noqa: F821  (each table has its own kind of place)
    slow: bool  # too slow for the test suite


@dataclass(frozen=True)
class Result:
    id: str
    what: str
    happened: str
    held: bool | None  # None: not run
    seconds: float = 0.0


class Table(dict[str, Row]):
    """Rows by their id."""

    def row(self, id: str, what: str, slow: bool = False):
        """Put a function into the table."""

        def add(check: Callable) -> Callable:
            assert id not in self
            self[id] = Row(id, what, check, slow)
            return check

        return add


def try_row(row: Row, place) -> Result:
    """What became of a row in its place, and how long it took."""
    started = time.perf_counter()
    return replace(_tried(row, place), seconds=round(time.perf_counter() - started, 1))


def _tried(row: Row, place) -> Result:
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return Result(row.id, row.what, row.check(place), True)
    except NotRun as reason:
        return Result(row.id, row.what, f"not run: {reason}", None)
    except Exception as error:  # one row must not stop the others
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Result(row.id, row.what, f"{type(error).__name__} in line {where.lineno} ({where.line}): {error}", False)


def run_table(description: str, rows: Table, letters: str, make_shared: Callable, make_place: Callable) -> int:
    """Try all rows of a table, or those of --only, print a line for each and how many held; 1 if one did not hold.

    make_shared(folder): what several rows need. make_place(folder, shared): where one row works.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    order = sorted(rows, key=lambda id: (letters.index(id[0]), int(id[1:])))
    parser.add_argument("--only", nargs="+", choices=order, default=order, metavar="ID", help="only these rows")
    args = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        shared = make_shared(Path(folder, "shared"))
        for id in args.only:
            result = try_row(rows[id], make_place(Path(folder, id), shared))
            results.append(result)
            verdict = {True: "held", False: "NOT HELD", None: "-"}[result.held]
            said = printable(result.happened).replace(folder, "")
            print(f"{id:4}{verdict:9}{result.seconds:6.1f} s  {result.what}: {said}", flush=True)
    held = sum(result.held is True for result in results)
    if args.json:
        args.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n", encoding="utf-8")
    print(f"{held} of {len(results)} held")
    sys.stdout.flush()
    return int(any(result.held is False for result in results))
