"""What trainers share: the order of samples, seeds, signals, logs. Every random choice follows from (seed, step)."""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch.distributed.tensor import DTensor
from torch.utils.data import Sampler
from transformers.optimization import get_wsd_schedule

from utils.cli import Stopped, UserError
from utils.files import whole_file, write_text
from utils.run_folder import list_checkpoints
from utils.training_args import TRACKERS


def seed_step(*numbers: int) -> None:
    """Seed torch's generators (CPU, CUDA) from (seed, step, ...), so that resuming at a step needs no saved state."""
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1)))


class EndlessSampler(Sampler):
    """Yields (epoch, index) for ever, each epoch a permutation that depends on (seed, epoch) alone.

    start: samples that all processes together have seen before. Process `rank` of `world_size` takes every
    world_size-th sample from `start + rank` on. A batch may reach from one epoch into the next, so no clip is left out.
    """

    def __init__(self, num_samples: int, seed: int, start: int = 0, rank: int = 0, world_size: int = 1):
        self.num_samples, self.seed, self.start = num_samples, seed, start
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        position, permuted_epoch, order = self.start + self.rank, None, None
        while True:
            epoch, offset = divmod(position, self.num_samples)
            if epoch != permuted_epoch:
                order, permuted_epoch = np.random.default_rng([self.seed, epoch]).permutation(self.num_samples), epoch
            yield epoch, int(order[offset])
            position += self.world_size


def heed_only_the_trainer(worker: int) -> None:
    """In a DataLoader worker: signals that ask for a stop are for the trainer, which needs the worker to end its step.

    Ctrl-C, a lost terminal and `kill -- -GROUP` reach workers too, and Slurm's SIGTERM every process.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_leave_when_the_trainer_says_so, daemon=True).start()


def _leave_when_the_trainer_says_so() -> None:
    trainer = multiprocessing.parent_process().pid  # os.getppid() may be a server that forks workers
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer:
        pass
    os._exit(0)


def learning_rate_schedule(name: str, optimizer: torch.optim.Optimizer, warmup: int, num_steps: int):
    """A schedule by its name in diffusers, or "warmup_stable_decay": constant, then linear to zero over the second half
    (Hu et al. 2024, arXiv:2404.06395). The warm-up takes at most a tenth of the steps."""
    warmup = min(warmup, num_steps // 10)
    if name == "warmup_stable_decay":
        decay = (num_steps + 1) // 2
        return get_wsd_schedule(optimizer, warmup, decay, num_training_steps=num_steps, decay_type="linear")
    return get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=num_steps)


def moving_average(parameters: list[torch.nn.Parameter], decay: float) -> EMAModel | None:
    """The exponential moving average of the parameters; None for a decay of 0."""
    if decay == 0:
        return None
    foreach = not any(isinstance(parameter, DTensor) for parameter in parameters)  # FSDP's lack some of its operations
    return EMAModel(parameters, decay=decay, foreach=foreach)


@contextmanager
def ema_weights(ema: EMAModel | None, parameters: Iterable[torch.nn.Parameter]):
    """Inside the block the parameters hold their moving average; on exit the live values come back."""
    parameters = list(parameters)
    if ema is not None:
        ema.store(parameters)
        ema.copy_to(parameters)
    try:
        yield
    finally:
        if ema is not None:
            ema.restore(parameters)


@contextmanager
def evaluation_mode(*modules: torch.nn.Module):
    """Inside the block the modules are in eval mode; on exit they train again."""
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module in modules:
            module.train()


class StopSignals:
    """Inside the block SIGTERM, SIGINT and SIGHUP ask for a stop after the current step; a second one stops at once."""

    def __init__(self):
        self.received: int | None = None
        self.previous = {}

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self.previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _handle(self, number, frame):
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
        said = f"\n{signal.Signals(number).name}: saving after this step; once more stops at once, unsaved\n"
        with suppress(OSError):  # not print, which must not be called within itself; nobody may be there to read it
            os.write(2, said.encode())

    def leave(self) -> None:
        """Raise Stopped if a signal came; call it once the state is saved."""
        if self.received is not None:
            raise Stopped(self.received)


def choose_precision(name: str, on_cpu: bool) -> str:
    """`name`, or for "auto" bf16 where the hardware multiplies in it, else no. Raises UserError for fp16 on a CPU."""
    if name == "fp16" and on_cpu:
        raise UserError("--mixed_precision: fp16 needs a GPU; use bf16, or no")
    if name != "auto":
        return name
    native = (
        torch.cpu._is_avx512_bf16_supported() if on_cpu else torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return "bf16" if native else "no"


def make_accelerator(args, run_dir: Path) -> Accelerator:
    """Devices, precision and processes as the flags of utils/training_args.py ask for."""
    # Without cpu=True the processes of torchrun on a CPU do not find each other, and each trains alone.
    on_cpu = not torch.accelerator.is_available()
    return Accelerator(
        cpu=on_cpu,
        mixed_precision=choose_precision(args.mixed_precision, on_cpu),
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=TRACKERS[args.report_to] or None,
        project_dir=run_dir,
    )


def newest_step(run_dir: Path) -> int:
    """The step of the newest checkpoint of a run; 0 if there is none."""
    return max((int(folder.name.removeprefix("checkpoint-")) for folder in list_checkpoints(run_dir)), default=0)


def how_to_continue(run_dir: Path) -> str:
    """The end of a message about a training that failed."""
    step = newest_step(run_dir)
    return f"--resume {run_dir} continues after step {step}" if step else "there is no checkpoint yet"


def any_process(accelerator, flag: bool) -> bool:
    """Whether `flag` is set on any of the processes."""
    if accelerator.num_processes == 1:
        return flag
    return accelerator.reduce(torch.tensor(float(flag), device=accelerator.device)).item() > 0


class Metrics:
    """One row of numbers per logged step, in metrics.jsonl and in whatever trackers accelerate was given.

    On resume the rows after the checkpoint's step are dropped: they will be measured again.
    """

    def __init__(self, path: Path, start_step: int, log: Callable[..., None], main_process: bool):
        self.path, self.log, self.main_process = path, log, main_process
        self.rows = [row for row in read_metrics(path) if row["step"] <= start_step]
        if main_process:
            write_text(path, "".join(json.dumps(row) + "\n" for row in self.rows))

    def lacks(self, name: str, step: int) -> bool:
        """Whether there is no number of this name at this step."""
        return not any(name in row for row in self.rows if row["step"] == step)

    def write(self, step: int, **values: float) -> None:
        if not self.main_process:
            return
        row = {"step": step, "time": round(time.time(), 2), **values}
        self.rows.append(row)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.log(values, step=step)


def read_metrics(path: Path) -> list[dict]:
    """The rows of a metrics.jsonl; a last line that a kill cut short is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def plot_metrics(rows: list[dict], path: Path) -> None:
    """Training and validation loss, learning rate and, where it was judged, accuracy against the step, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    def curve(name: str) -> tuple[list, list]:
        points = [(row["step"], row[name]) for row in rows if name in row]
        return [step for step, _ in points], [value for _, value in points]

    judged = {name.removeprefix("accuracy/") for row in rows for name in row if name.endswith(("_all", "_strict"))}
    heights = [3, 1, 2] if judged else [3, 1]
    figure, (losses, rate, *more) = pyplot.subplots(
        len(heights), 1, figsize=(8, 7 + 3 * bool(judged)), sharex=True, height_ratios=heights, dpi=110
    )
    steps, values = curve("train/loss")
    losses.plot(steps, values, color="lightsteelblue", linewidth=0.8, label="training loss")
    if len(values) >= 20:
        window = len(values) // 20
        smooth = np.convolve(values, np.ones(window) / window, mode="valid")
        losses.plot(steps[window - 1 :], smooth, color="tab:blue", label=f"its mean over {window} rows")
    steps, values = curve("val/loss")
    losses.plot(steps, values, "o-", color="tab:orange", markersize=3, label="validation loss (EMA, fixed noise)")
    positive = [row[name] for row in rows for name in ("train/loss", "val/loss") if row.get(name, 0) > 0]
    losses.set(ylabel="loss", yscale="log" if positive else "linear")
    losses.grid(alpha=0.3), losses.legend()
    rate.plot(*curve("train/learning_rate"), color="tab:green")
    rate.set(ylabel="learning rate"), rate.grid(alpha=0.3)
    for axes in more:
        for name in sorted(judged):
            axes.plot(*curve(f"accuracy/{name}"), "o-", markersize=3, label=name.replace("_", " "))
        axes.set(ylabel="videos that obey", ylim=(0, 1)), axes.grid(alpha=0.3), axes.legend()
    figure.axes[-1].set_xlabel("step")
    figure.tight_layout()
    with whole_file(path) as partial:
        figure.savefig(partial)
    pyplot.close(figure)
