"""Scripts in processes of their own that are forked after the imports: as good as new ones, and at work at once."""

import multiprocessing
import os
import shutil
import signal
import sys
import time
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests.faults.place import ROOT, TRAIN, TRAIN_SVD, Ended, Place, Shared
from tests.faults.runner import run_patched
from utils.logs.metrics import read_metrics
from utils.runs.checkpoint import load_checkpoint
from utils.runs.run_folder import list_checkpoints

TRAINERS = ("train_text2video", "train_svd")
ENDLESS = ("--max_train_steps", 100_000, "--checkpoint_every", 100_000, "--resume", "auto")

forking = multiprocessing.get_context("forkserver")
forking.set_forkserver_preload(["tests.faults.imports"])


class Script:
    """A script at work, in a session of its own. `output` takes what it says: a new file, a terminal, a FIFO.

    It goes with this object, if the row that started it fails.
    """

    def __init__(self, output: Path, script: str, *flags, patch: str | None = None):
        self.output = output
        self.process = forking.Process(target=_run, args=(output, patch, script, list(map(str, flags))))
        self.process.start()
        self.pid = self.process.pid
        weakref.finalize(self, self.process.kill)

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace") if self.output.is_file() else ""

    def until(self, condition: Callable[[], bool], timeout: float = 120) -> "Script":
        """Wait for the condition, while it works."""
        end = time.monotonic() + timeout
        while not condition():
            assert self.process.is_alive(), f"ended too early: {self.said[-2000:]}"
            assert time.monotonic() < end, f"waited in vain: {self.said[-2000:]}"
            time.sleep(0.005)
        return self

    def signal(self, number: int, group: bool = False) -> "Script":
        (os.killpg if group else os.kill)(self.pid, number)
        return self

    def end(self, timeout: float = 120) -> Ended:
        self.process.join(timeout)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"does not end: {self.said[-2000:]}")
        return Ended(self.process.exitcode, self.said)


def _run(output: Path, patch: str | None, script: str, flags: list[str]) -> None:
    os.setsid()
    os.chdir(ROOT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits that it is ignored
    multiprocessing.set_start_method(None, force=True)  # of the script's own processes: as Python has it
    # A terminal is the one of its session only for a process that can also read it, and a FIFO that can has a reader.
    mode = os.O_RDWR if output.is_char_device() else os.O_WRONLY
    file = os.open(output, mode | os.O_CREAT | os.O_APPEND, 0o666)
    for target in (1, 2):
        os.dup2(file, target)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", buffering=1, closefd=False)
    run_patched(patch, script, flags)


class Training:
    """A tiny training in place.out/<trainer><name>, of which the process may be stopped and started again."""

    def __init__(self, place: Place, trainer: str, name: str = ""):
        self.place, self.trainer, self.run_dir = place, trainer, place.out / f"{trainer}{name}"
        self.argv = {
            "train_text2video": ("--data_dir", place.shared.data, *TRAIN),
            "train_svd": (
                *("--pretrained_model_name", place.shared.svd, "--dataset_dir", place.shared.frames, *TRAIN_SVD),
                *("--mixed_precision", "no", "--sample_every", 10_000, "--validate_every", 10_000),
                *("--num_validation_clips", 1, "--num_inference_steps", 1, "--save_trainable_only"),
            ),
        }[trainer]
        self.starts = 0

    def start(self, *flags, output: Path | None = None, patch: str | None = None) -> Script:
        self.starts += 1
        output = output or self.place.folder / f"{self.run_dir.name}{self.starts}.txt"
        return Script(output, self.trainer, *self.argv, "--output_dir", self.run_dir, *flags, patch=patch)

    def run(self, *flags, patch: str | None = None) -> Ended:
        return self.start(*flags, patch=patch).end()

    def rows(self) -> list[dict]:
        """What it has logged, a row for each step."""
        return [row for row in read_metrics(self.run_dir / "metrics.jsonl") if "train/loss" in row]

    def losses(self) -> dict[int, float]:
        return {row["step"]: row["train/loss"] for row in self.rows()}

    def saved(self) -> list[int]:
        """The steps of its checkpoints, newest first; all of them can be loaded."""
        return [load_checkpoint(folder)[1]["step"] for folder in list_checkpoints(self.run_dir)]

    def hidden(self) -> list[str]:
        """What lies about in the run folder besides the lock."""
        return [path.name for path in self.run_dir.rglob(".*") if path.name not in (".lock", ".gitignore")]

    def like(self, run_dir: Path) -> "Training":
        """The same, with a copy of this run folder."""
        shutil.rmtree(self.run_dir, ignore_errors=True)
        shutil.copytree(run_dir, self.run_dir)
        return self


def trainings(place: Place, name: str = "") -> list[Training]:
    """One of each trainer, with nothing in its folder."""
    return [Training(place, trainer, name) for trainer in TRAINERS]


def finished(place: Place) -> list[Training]:
    """One of each trainer, with four steps done and checkpoints at two and four."""
    return [Training(place, trainer).like(_finished(place.shared, trainer)) for trainer in TRAINERS]


@cache
def _finished(shared: Shared, trainer: str) -> Path:
    training = Training(Place(shared.folder / f"finished_{trainer}", shared), trainer)
    training.run("--max_train_steps", 4, "--checkpoint_every", 2).done("done: ")
    return training.run_dir
