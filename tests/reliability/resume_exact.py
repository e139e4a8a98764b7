"""Is a run that was stopped and resumed the run that was never stopped? Both trainers, tiny models, on the CPU.

    python -m tests.reliability.resume_exact             # the largest difference over 8 runs with 5 stops each
    python -m tests.reliability.resume_exact --mutate    # does this check see the loss of each item of the state?

A run is stopped by real SIGTERMs inside steps and resumed by the same command with --resume latest. With --mutate the
resumed run finds, instead of one item of its checkpoint, what that item was at step 1 (or, where that is the same,
something else); or it draws one kind of random numbers from another seed. Each must show, or be refused.
"""

import argparse
import contextlib
import hashlib
import json
import os
import pkgutil
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial, wraps
from itertools import pairwise, product
from pathlib import Path
from unittest import mock

import torch
from diffusers.training_utils import EMAModel
from torch.utils.data.dataloader import _BaseDataLoaderIter

import utils.training.training_run
from tests.badinput.place import Shared, run_script
from tests.reliability.tiny_runs import TRAINERS, command
from utils.cli import printable
from utils.logs.metrics import read_metrics
from utils.runs.checkpoint import Resumed, list_checkpoints, load_checkpoint
from utils.training.order import EndlessSampler, seed_step

STEPS, STOPS, WORKERS, ACCUMULATIONS = 17, (1, 3, 5, 8, 16), (0, 2), (1, 3)
MUTATED_STEPS, MUTATED_STOP = 9, 5
NOT_COMPARED = {"step", "time", "train/data_wait_share", "train/steps_per_second"}  # they measure the clock


class Failed(Exception):
    """A run did not end as it should have; its last words."""


@dataclass(frozen=True)
class Ran:
    """What can be compared of a run: each batch's digest, rows of metrics, and all of its last checkpoint."""

    batches: list[str]
    rows: list[dict]
    tensors: dict[str, dict[str, torch.Tensor]]
    state: dict


@dataclass(frozen=True)
class Difference:
    """largest: absolute difference of numbers by what they are; unequal: what else is not the same."""

    largest: dict[str, float]
    unequal: list[str]

    def __str__(self) -> str:
        found = [f"{name} by {value:.2g}" for name, value in self.largest.items() if value]
        return ", ".join(found + self.unequal) or "none"

    @property
    def exists(self) -> bool:
        return bool(self.unequal) or any(value != 0 for value in self.largest.values())


def train(trainer: str, shared: Shared, out: Path, *flags, stop_after: int | None = None) -> list[str]:
    """Train to the end, or send SIGTERM to this process in a step; returns the digest of each micro-batch."""
    batches = []
    with silent(), digests_of_batches(batches), sigterm_in_step(stop_after):
        outcome = run_script(trainer, (*command(trainer, shared), "--output_dir", out, *flags))
    if outcome.status != (0 if stop_after is None else 143):
        lines = outcome.err.splitlines() or ["no error"]
        raise Failed(next((line for line in reversed(lines) if re.search(r"Error\b|error: ", line)), lines[-1]))
    return batches


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Inside the block standard error is lost, also for what writes to it past Python: the handler of a signal."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept), os.close(nowhere)


@contextlib.contextmanager
def digests_of_batches(into: list[str]) -> Iterator[None]:
    """Inside the block `into` collects the SHA-256 of every batch that a data loader hands out."""
    real = _BaseDataLoaderIter.__next__

    def watched(self):
        batch = real(self)
        digest = hashlib.sha256()
        for part in batch.values() if isinstance(batch, dict) else batch:
            digest.update(part.numpy().tobytes() if isinstance(part, torch.Tensor) else repr(part).encode())
        into.append(digest.hexdigest())
        return batch

    with mock.patch.object(_BaseDataLoaderIter, "__next__", watched):
        yield


@contextlib.contextmanager
def sigterm_in_step(number: int | None) -> Iterator[None]:
    """Inside the block the process gets a SIGTERM while the moving average takes its `number`-th step."""
    real, count = EMAModel.step, 0

    @wraps(real)
    def step(*args, **kwargs):
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **kwargs)

    with mock.patch.object(EMAModel, "step", step):
        yield


def whole_run(trainer: str, shared: Shared, out: Path, *flags) -> Ran:
    batches = train(trainer, shared, out, *flags)
    return ran(out, batches)


def resumed_run(trainer: str, shared: Shared, out: Path, stops: tuple[int, ...], *flags) -> Ran:
    """The same, stopped after these steps and resumed each time."""
    batches, resume = [], ()
    for before, stop in pairwise((0, *stops)):
        batches += train(trainer, shared, out, *flags, *resume, stop_after=stop - before)
        resume = ("--resume", "latest")
    return ran(out, batches + train(trainer, shared, out, *flags, *resume))


def ran(out: Path, batches: list[str]) -> Ran:
    return Ran(batches, read_metrics(out / "metrics.jsonl"), *load_checkpoint(list_checkpoints(out)[0]))


def difference(one: Ran, other: Ran) -> Difference:
    """Between two runs, in everything but what measures the clock."""
    largest, unequal = {}, []
    if one.batches != other.batches:
        unequal.append("samples")
    rows = [[{k: v for k, v in row.items() if k not in NOT_COMPARED} for row in run.rows] for run in (one, other)]
    if [row.keys() for row in rows[0]] != [row.keys() for row in rows[1]]:
        unequal.append("logged steps")
    for a, b in zip(*rows, strict=False):
        for name in a.keys() & b.keys():
            largest[name] = max(largest.get(name, 0.0), abs(a[name] - b[name]))
    for group in one.tensors.keys() | other.tensors.keys():
        a, b = one.tensors.get(group, {}), other.tensors.get(group, {})
        same_names = a.keys() == b.keys()
        if not same_names or any(a[name].numpy().tobytes() != b[name].numpy().tobytes() for name in a):
            unequal.append(group)
        if same_names:
            largest[group] = max(float((a[name].double() - b[name].double()).abs().max()) for name in a)
    state_keys = one.state.keys() | other.state.keys()
    unequal += [f"state {key}" for key in state_keys if one.state.get(key) != other.state.get(key)]
    return Difference(dict(sorted(largest.items())), sorted(unequal))


def exactness(
    shared: Shared,
    folder: Path,
    *,
    steps: int = STEPS,
    stops: tuple[int, ...] = STOPS,
    workers: tuple[int, ...] = WORKERS,
    accumulations: tuple[int, ...] = ACCUMULATIONS,
    trainers: tuple[str, ...] = TRAINERS,
) -> Iterator[tuple[str, int, int, Difference]]:
    """(trainer, workers, accumulation, difference of the run with stops from the one without)."""
    for trainer, number, accumulation in product(trainers, workers, accumulations):
        flags = ("--num_workers", number, "--gradient_accumulation_steps", accumulation, "--max_train_steps", steps)
        name = f"{trainer}_{number}_{accumulation}"
        whole = whole_run(trainer, shared, folder / name, *flags)
        parts = resumed_run(trainer, shared, folder / f"{name}_stopped", stops, *flags)
        yield trainer, number, accumulation, difference(whole, parts)


# What a resumed run is to miss: a change of what it finds in its checkpoint, or another source of random numbers.


def other_value(value, before):
    """What a state item was at step 1; if it was the same, or nothing yet, something that it is not."""
    if before is not None and before != value:
        return before
    if isinstance(value, dict):
        return {}
    return value / 2 if isinstance(value, int | float) else f"not {value}"


@contextlib.contextmanager
def checkpoint_item_lost(key: str, kind: str, before: Resumed) -> Iterator[None]:
    """Inside the block a run that resumes finds an earlier value of one item: tensors `key` of the kind, or state."""
    real = utils.training.training_run.find_run

    def find_run(*args, **kwargs):
        run_dir, resumed = real(*args, **kwargs)
        if kind == "state":
            resumed.state[key] = other_value(resumed.state[key], before.state[key])
        else:
            stale = {name: t for name, t in before.tensors[key].items() if kind_of(name, key) == kind}
            assert any(not torch.equal(t, resumed.tensors[key][name]) for name, t in stale.items())
            resumed.tensors[key] |= stale
        return run_dir, resumed

    with mock.patch("utils.training.training_run.find_run", find_run):
        yield


def kind_of(name: str, group: str) -> str:
    """exp_avg of "17.exp_avg" in the optimizer's tensors; all others are of one kind."""
    return name.split(".", 1)[1] if group == "optimizer" else "tensors"


def items_of(checkpoint: Resumed) -> list[tuple[str, str]]:
    """(key, kind) of all that a checkpoint holds."""
    tensors = {(group, kind_of(name, group)) for group, named in checkpoint.tensors.items() for name in named}
    return sorted(tensors) + [(key, "state") for key in sorted(checkpoint.state)]


def drawn_otherwise(target: str) -> contextlib.AbstractContextManager:
    """Inside the block a function draws its random numbers from a seed of its own."""
    real = pkgutil.resolve_name(target)

    @wraps(real)
    def function(*args, **kwargs):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(12345)
            return real(*args, **kwargs)

    return mock.patch(target, function)


def sampler_with(**changes) -> contextlib.AbstractContextManager:
    """Inside the block the order of samples is made with other arguments."""
    return mock.patch(
        "utils.training.training_run.EndlessSampler", lambda *args, **_: EndlessSampler(*args[:2], **changes)
    )


def samples_of_epoch_zero() -> contextlib.AbstractContextManager:
    """Inside the block windows, crops and flips of a sample are those of the first epoch."""
    real = EndlessSampler.__iter__
    return mock.patch.object(EndlessSampler, "__iter__", lambda self: ((0, index) for _, index in real(self)))


def seed_without_step() -> contextlib.AbstractContextManager:
    """Inside the block the seed of a step does not depend on the step."""
    return mock.patch("utils.training.training_run.seed_step", lambda seed, *_: seed_step(seed))


RANDOM = {
    "place in the order of samples": lambda: sampler_with(start=0),
    "epoch of window, crop and flip": samples_of_epoch_zero,
    "step in the seed": seed_without_step,
}
RANDOM_OF = {
    "train_text2video": {
        "noise": "torch.randn_like",
        "timesteps": "models.diffusion.text2video.TextToVideoDiffusion.draw_timesteps",
        "dropout of the text": "models.diffusion.text2video.TextToVideoDiffusion.drop_text",
    },
    "train_svd": {
        "noise": "torch.randn",
        "noise levels": "models.svd.objective.draw_sigmas",
        "noise on the image and its dropout": "models.svd.conditioning.make_conditioning",
    },
}


def with_gradient_scaler() -> contextlib.AbstractContextManager:
    """Inside the block accelerators scale the loss as for fp16, which needs a GPU otherwise."""
    real = utils.training.training_run.make_accelerator

    def make_accelerator(*args):
        accelerator = real(*args)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2)
        return accelerator

    return mock.patch("utils.training.training_run.make_accelerator", make_accelerator)


def mutations(
    shared: Shared, folder: Path, trainers: tuple[str, ...] = TRAINERS
) -> Iterator[tuple[str, str, str, bool]]:
    """(trainer, item, what came of its loss, whether that shows); the first item is "nothing"."""
    flags = ("--max_train_steps", MUTATED_STEPS)
    for trainer in trainers:
        with with_gradient_scaler():
            straight = whole_run(trainer, shared, folder / trainer, *flags)
            train(trainer, shared, folder / f"{trainer}_1", *flags, stop_after=1)
            before = Resumed(*load_checkpoint(list_checkpoints(folder / f"{trainer}_1")[0]))
            stopped = folder / f"{trainer}_{MUTATED_STOP}"
            batches = train(trainer, shared, stopped, *flags, stop_after=MUTATED_STOP)
            checkpoint = Resumed(*load_checkpoint(list_checkpoints(stopped)[0]))
            lost = {"nothing": contextlib.nullcontext}
            for key, kind in items_of(checkpoint):
                lost[f"{key} {kind}"] = partial(checkpoint_item_lost, key, kind, before)
            lost |= RANDOM | {name: partial(drawn_otherwise, target) for name, target in RANDOM_OF[trainer].items()}
            for item, without in lost.items():
                out = folder / "mutated"
                shutil.copytree(stopped, out)
                try:
                    with without():
                        resumed = train(trainer, shared, out, *flags, "--resume", "latest")
                    found = difference(straight, ran(out, batches + resumed))
                    yield trainer, item, f"difference {found}", found.exists
                except Failed as error:
                    yield trainer, item, f"refused: {error}", True
                shutil.rmtree(out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    parser.add_argument("--mutate", action="store_true", help="lose each item of the state in turn")
    args = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline")
    with tempfile.TemporaryDirectory() as folder:
        shared = Shared(Path(folder, "shared"))
        summary = report_mutations(shared, Path(folder)) if args.mutate else report_exactness(shared, Path(folder))
    if args.json:
        args.json.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return int(not summary["held"])


def report_exactness(shared: Shared, folder: Path) -> dict:
    runs = []
    for trainer, workers, accumulation, found in exactness(shared, folder):
        runs.append({"trainer": trainer, "workers": workers, "accumulation": accumulation, **asdict(found)})
        print(f"{trainer}, {workers} workers, accumulation {accumulation}: difference {found}", flush=True)
    largest = max(value for run in runs for value in run["largest"].values())
    equal = sum(not run["unequal"] for run in runs)
    stops = len(STOPS) * len(runs)
    print(
        f"{stops} stops in {len(runs)} runs of {STEPS} steps: largest difference of losses, learning rate, moving "
        f"average and weights {largest}; samples and state equal in {equal} of {len(runs)}"
    )
    held = largest == 0 and equal == len(runs)
    return {"stops": stops, "largest_difference": largest, "equal": equal, "held": held, "runs": runs}


def report_mutations(shared: Shared, folder: Path) -> dict:
    rows, sound = [], True
    for trainer, item, found, shows in mutations(shared, folder):
        if item == "nothing":
            sound &= not shows  # or the others would show for another reason
        else:
            rows.append({"trainer": trainer, "item": item, "found": found, "seen": shows})
        verdict = "seen" if shows else "not seen"
        print(f"{trainer}, lost: {item}: {verdict}: {printable(found)[:160]}", flush=True)
    seen = sum(row["seen"] for row in rows)
    print(f"{seen} of {len(rows)} items seen" + ("" if sound else "; but the runs differ with nothing lost"))
    return {"seen": seen, "of": len(rows), "held": sound and seen == len(rows), "items": rows}


if __name__ == "__main__":
    sys.exit(main())
