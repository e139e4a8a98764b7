"""kill -9 while trainings step and while they save: what is lost?

    python -m tests.reliability.kill9 [--n 50] [--json FILE]

Both trainers run tiny models; half of the kills fall inside a step, half inside the writing of a checkpoint. After each
one the newest checkpoint must be whole, no older than the interval between two, and the next run must go on from it.
For contrast the same checkpoint is written by torch.save into one file and killed in the same way.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import torch
from diffusers import StableVideoDiffusionPipeline  # noqa: F401  (imported before the forks, not in each)
from diffusers.training_utils import EMAModel

import utils.runs.model_file  # noqa: F401
import utils.training.training_run
from tests.badinput.place import Shared, run_script
from tests.reliability.tiny_runs import TRAINERS, command
from utils.runs.checkpoint import CheckpointError, list_checkpoints, load_checkpoint

INTERVAL = 3  # steps between checkpoints
STEP, SAVING, SAVED = b".", b"(", b")"  # what a training says through its pipe


@dataclass(frozen=True)
class Kill:
    """inside: "step" or "save". lost: steps done that the newest checkpoint does not hold. problem: "" if none."""

    trainer: str
    inside: str
    lost: int
    problem: str


class Victim:
    """A process forked from this one that reports what it does, and dies when told."""

    def __init__(self, work: Callable[[Callable[[bytes], None]], None]):
        self.pipe, end = os.pipe()
        self.events = b""
        self.pid = os.fork()
        if self.pid == 0:
            silence = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(silence, stream)
            try:
                work(lambda event: os.write(end, event))
            finally:
                os._exit(1)
        os.close(end)

    def wait_for(self, event: bytes, count: int) -> None:
        """Return when it has reported `event` so many times, or has ended."""
        while self.events.count(event) < count and (read := os.read(self.pipe, 1)):
            self.events += read

    def kill(self) -> int:
        """kill -9; returns the signal that ended it, or 0 if it had ended by itself."""
        os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        while read := os.read(self.pipe, 4096):
            self.events += read
        os.close(self.pipe)
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0

    @property
    def inside(self) -> str:
        return "save" if self.events.rfind(SAVING) > self.events.rfind(SAVED) else "step"


def reporting(report: Callable[[bytes], None]) -> None:
    """From now on steps and saves of a training in this process are reported."""
    step, save = EMAModel.step, utils.training.training_run.save_checkpoint

    def reported_step(*args, **kwargs):
        step(*args, **kwargs)
        report(STEP)

    def reported_save(*args, **kwargs):
        report(SAVING)
        path = save(*args, **kwargs)
        report(SAVED)
        return path

    mock.patch.object(EMAModel, "step", reported_step).start()
    mock.patch("utils.training.training_run.save_checkpoint", reported_save).start()


def kill_once(trainer: str, shared: Shared, out: Path, aim: str, rng: random.Random) -> Kill:
    """Train on in `out` and kill it inside a step or a save, at a random moment."""
    before = newest_step(out)

    def work(report):
        reporting(report)
        flags = ("--output_dir", out, "--resume", "auto", "--checkpoint_every", INTERVAL, "--max_train_steps", 100_000)
        run_script(trainer, (*command(trainer, shared), *flags))

    victim = Victim(work)
    if aim == "save":
        victim.wait_for(SAVING, 1)
        time.sleep(rng.uniform(0, 0.03))
    else:
        victim.wait_for(STEP, rng.randint(1, 2 * INTERVAL))
        time.sleep(rng.uniform(0, 0.1))
    by = victim.kill()
    done = before + victim.events.count(STEP)
    problem = "" if by == signal.SIGKILL else "the run ended by itself"
    for folder in list_checkpoints(out)[:1]:
        try:
            load_checkpoint(folder)
        except CheckpointError as error:
            problem = str(error)
    lost = done - newest_step(out)
    if lost > INTERVAL:
        problem = problem or f"{lost} steps lost"
    return Kill(trainer, victim.inside, lost, problem)


def newest_step(out: Path) -> int:
    """Of the newest checkpoint that can be read; 0 if there is none."""
    for folder in list_checkpoints(out):
        try:
            return load_checkpoint(folder)[1]["step"]
        except CheckpointError:
            continue
    return 0


def goes_on(trainer: str, shared: Shared, out: Path) -> bool:
    """Whether the run, killed so often, can be resumed and brought to its end."""
    end = newest_step(out) + 2

    def work(report):
        flags = ("--output_dir", out, "--resume", "latest", "--max_train_steps", end)
        os._exit(run_script(trainer, (*command(trainer, shared), *flags)).status)

    _, status = os.waitpid(Victim(work).pid, 0)
    return status == 0 and newest_step(out) == end


def one_file_unreadable(tensors: dict, path: Path, count: int, rng: random.Random) -> tuple[int, int]:
    """(kills inside a torch.save of `tensors` into one file, how many left it unreadable)."""

    def work(report):
        while True:
            report(SAVING)
            torch.save(tensors, path)
            report(SAVED)

    inside = unreadable = 0
    for _ in range(10 * count):
        victim = Victim(work)
        victim.wait_for(SAVING, 2)  # one is complete
        time.sleep(rng.uniform(0, 0.01))
        victim.kill()
        if victim.inside == "save":
            inside += 1
            try:
                torch.load(path, weights_only=True)
            except Exception:
                unreadable += 1
        if inside == count:
            break
    return inside, unreadable


def kills(shared: Shared, folder: Path, count: int, seed: int = 0) -> list[Kill]:
    """`count` kills, the same number of each trainer inside steps and inside saves as far as it divides."""
    rng, found = random.Random(seed), []
    wanted = [(trainer, inside) for _ in range(count) for inside in ("step", "save") for trainer in TRAINERS][:count]
    for _ in range(6 * count):  # a kill may miss a save; then it was one inside a step, and is as good
        if not wanted:
            break
        trainer, inside = wanted[0]
        kill = kill_once(trainer, shared, folder / trainer, inside, rng)
        found.append(kill)
        if (trainer, kill.inside) in wanted:
            wanted.remove((trainer, kill.inside))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--n", type=int, default=50, help="kills")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    args = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline")
    torch.set_num_threads(1)  # a process with threads cannot be forked
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shared = Shared(folder / "shared")
        shared.data, shared.svd, shared.frames  # noqa: B018  (made once, here)
        found = kills(shared, folder, args.n)
        for kill in found:
            if kill.problem:
                print(f"{kill.trainer} killed inside a {kill.inside}: {kill.problem}".replace(name, ""))
        ended = [trainer for trainer in TRAINERS if goes_on(trainer, shared, folder / trainer)]
        tensors, _ = load_checkpoint(list_checkpoints(folder / TRAINERS[0])[0])
        inside, unreadable = one_file_unreadable(tensors, folder / "one_file.pt", args.n // 2, random.Random(0))
    summary = {
        "kills": len(found),
        "inside_a_save": sum(kill.inside == "save" for kill in found),
        "problems": sum(bool(kill.problem) for kill in found),
        "worst_steps_lost": max(kill.lost for kill in found),
        "interval": INTERVAL,
        "resumed_to_the_end": ended,
        "torch_save": {"kills": inside, "unreadable": unreadable},
        "each": [asdict(kill) for kill in found],
    }
    print(
        f"{summary['kills']} kills, {summary['inside_a_save']} of them inside a save: {summary['problems']} with a "
        f"checkpoint lost or unreadable, at worst {summary['worst_steps_lost']} steps lost (a checkpoint every "
        f"{INTERVAL}); resumed to the end afterwards: {', '.join(ended) or 'none'}"
    )
    print(f"for contrast, torch.save into one file: {unreadable} of {inside} kills inside it left it unreadable")
    if args.json:
        args.json.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return int(summary["problems"] > 0 or len(ended) < len(TRAINERS))


if __name__ == "__main__":
    sys.exit(main())
