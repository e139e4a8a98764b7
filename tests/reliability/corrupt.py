"""Damage the newest checkpoint: is it noticed, and does the run go on from the one before?

    python -m tests.reliability.corrupt [--n 100] [--json FILE]

One flipped bit or one cut in one file of the newest checkpoint, all files of both trainers' checkpoints in turn, and
then each file missing. For contrast: how many of the same damages the libraries notice that read the files.
"""

import argparse
import contextlib
import io
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load

from tests.badinput.place import Shared, run_script
from tests.reliability.tiny_runs import TRAINERS, command
from utils.cli import UserError
from utils.runs.checkpoint import list_checkpoints, newest_checkpoint

STEPS, EVERY = 4, 2


def flip(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def falls_back(run_dir: Path) -> bool:
    """Whether a resumed run passes over the newest checkpoint by name and finds the one before."""
    newest, before = list_checkpoints(run_dir)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            folder, _, state = newest_checkpoint(run_dir)
    except UserError:
        return False
    return newest.name in said.getvalue() and folder == before and state["step"] == STEPS - EVERY


def library_notices(file: Path) -> bool:
    """Whether what reads this kind of file refuses its content."""
    read: Callable[[bytes], object] = load if file.suffix == ".safetensors" else json.loads
    try:
        read(file.read_bytes())
    except Exception:
        return True
    return False


def damages(runs: list[Path], count: int, seed: int = 0) -> list[dict]:
    """{"file", "damage", "caught", "by_library"} of `count` flips and cuts, then of each file missing."""
    rng, found = random.Random(seed), []
    files = [(run, file) for run in runs for file in sorted(list_checkpoints(run)[0].iterdir())]
    tries = [(*files[number // 2 % len(files)], (flip, cut)[number % 2]) for number in range(count)]
    for run, file, damage in [*tries, *((run, file, None) for run, file in files)]:
        content = file.read_bytes()
        if damage is None:
            file.unlink()
        else:
            file.write_bytes(damage(content, rng))
        found.append(
            {
                "file": f"{run.name}/{file.name}",
                "damage": damage.__name__ if damage else "missing",
                "caught": falls_back(run),
                "by_library": damage is None or library_notices(file),
            }
        )
        file.write_bytes(content)
    return found


def train_twice_saved(trainer: str, shared: Shared, run_dir: Path) -> Path:
    """A run with two checkpoints."""
    flags = ("--output_dir", run_dir, "--checkpoint_every", EVERY, "--max_train_steps", STEPS)
    run_script(trainer, (*command(trainer, shared), *flags)).done()
    return run_dir


def resumes_from_the_one_before(trainer: str, shared: Shared, run: Path) -> bool:
    """Whether the trainer itself, its newest checkpoint damaged, says so and trains to the end from the one before."""
    newest, before = list_checkpoints(run)
    (newest / "state.json").write_bytes(cut((newest / "state.json").read_bytes(), random.Random(0)))
    outcome = run_script(
        trainer, (*command(trainer, shared), "--output_dir", run, "--resume", "latest", "--max_train_steps", STEPS)
    )
    return outcome.status == 0 and f"resuming from {before}" in outcome.out and f"passing over {newest}" in outcome.err


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--n", type=int, default=100, help="flips and cuts")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    args = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline")
    with tempfile.TemporaryDirectory() as name:
        shared = Shared(Path(name, "shared"))
        runs = [train_twice_saved(trainer, shared, Path(name, trainer)) for trainer in TRAINERS]
        found = damages(runs, args.n)
        both = zip(TRAINERS, runs, strict=True)
        resumed = [trainer for trainer, run in both if resumes_from_the_one_before(trainer, shared, run)]
    caught = sum(each["caught"] for each in found)
    for each in found:
        if not each["caught"]:
            print(f"not caught: {each['damage']} in {each['file']}")
    print(f"{caught} of {len(found)} caught and the checkpoint before found: {args.n} flips and cuts, the rest missing")
    parts = {kind: [each for each in found if each["damage"] == kind] for kind in ("flip", "cut")}
    alone = ", ".join(f"{sum(e['by_library'] for e in part)} of {len(part)} {kind}s" for kind, part in parts.items())
    print(f"for contrast, the libraries that read the files notice {alone}")
    print(f"trained to the end from the checkpoint before: {', '.join(resumed) or 'none'}")
    summary = {"caught": caught, "of": len(found), "resumed_to_the_end": resumed, "each": found}
    if args.json:
        args.json.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return int(caught < len(found) or len(resumed) < len(TRAINERS))


if __name__ == "__main__":
    sys.exit(main())
