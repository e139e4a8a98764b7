"""See tests/badinput/__init__.py."""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.badinput import ROWS, Shared, try_row
from utils.cli import printable


def main() -> int:
    parser = argparse.ArgumentParser(description="Give the scripts bad inputs and see what they make of them.")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    order = sorted(ROWS, key=lambda id: ("VCIKAP".index(id[0]), int(id[1:])))
    parser.add_argument("--only", nargs="+", choices=order, default=order, metavar="ID", help="only these rows")
    args = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        shared = Shared(Path(folder, "shared"))
        for id in args.only:
            result = try_row(ROWS[id], Path(folder, id), shared)
            results.append(result)
            verdict = {True: "held", False: "NOT HELD", None: "-"}[result.held]
            print(f"{id:4}{verdict:9} {result.what}: {printable(result.happened).replace(folder, '')}", flush=True)
    held = sum(result.held is True for result in results)
    if args.json:
        args.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n", encoding="utf-8")
    print(f"{held} of {len(results)} held")
    return int(any(result.held is False for result in results))


if __name__ == "__main__":
    sys.exit(main())
