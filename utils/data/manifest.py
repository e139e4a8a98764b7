"""manifest.jsonl: what prepare_dataset.py says of the clips that it wrote."""

import json
from pathlib import Path

from utils.cli import printable
from utils.data.errors import DataError

MANIFEST = "manifest.jsonl"


def read_manifest(path: Path) -> dict[str, dict]:
    """{folder: row} of the clips that were written, in order; empty without a manifest.

    Raises DataError that names a line that is none.
    """
    rows = {}
    if path.exists():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                row = json.loads(line)
                if "folder" in row:
                    if Path(row["folder"]).name != row["folder"]:
                        raise ValueError("no name of a folder beside it")
                    rows[row["folder"]] = row
            except (ValueError, TypeError):
                raise DataError(
                    f"line {number} of {printable(path)} is damaged; run prepare_dataset.py again"
                ) from None
    return rows
