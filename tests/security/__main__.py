"""See tests/security/__init__.py."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from tests import security
from tests.badinput.place import Place, Shared
from tests.security.audit import NotLookedUp, vulnerabilities
from tests.security.calls import in_the_repository
from tests.security.models import attack
from tests.security.secrets import secrets_kept
from tests.security.text import escaping_prompts, watch_terminal
from utils.cli import printable

PROMPTS = 500


def main() -> int:
    parser = argparse.ArgumentParser(description=security.__doc__.split("\n\n")[0])
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    args = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline")
    calls, allowed = in_the_repository()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shared = Shared(folder / "shared")
        attacks = attack(Place(folder / "models", shared))
        terminal = watch_terminal(Place(folder / "terminal", shared))
        figures = {
            f"unsafe calls in the code, {len(allowed)} others allowed with a reason": calls,
            f"of {attacks.kinds} hostile models and checkpoints executed": attacks.executed,
            f"of {PROMPTS} fuzzed prompts with files elsewhere": escaping_prompts(folder / "prompts", PROMPTS),
            f"of {terminal.inputs} hostile texts with control characters that reach the terminal": terminal.leaks,
            "secrets in the files of two runs": secrets_kept(Place(folder / "secrets", shared)),
        }
    try:
        figures["known vulnerabilities of installed packages"], _ = vulnerabilities()
        not_run = None
    except NotLookedUp as reason:
        not_run = f"vulnerabilities of installed packages not looked up: {reason}"
    for what, found in figures.items():
        print(f"{len(found)} {what}")
        print("".join(f"    {printable(each).replace(name, '')}\n" for each in found), end="")
    if not_run:
        print(printable(not_run))
    if args.json:
        args.json.write_text(json.dumps({**figures, "not_run": not_run}, indent=1) + "\n", encoding="utf-8")
    return int(any(figures.values()))


if __name__ == "__main__":
    sys.exit(main())
