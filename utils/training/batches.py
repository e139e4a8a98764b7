"""Batches for ever, from worker processes that may die, hang, or meet clips that can no longer be read."""

import errno
import signal
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Sampler

from utils.cli import UserError, printable
from utils.data.errors import DataError
from utils.data.readable import ReadableClips
from utils.decoding.source import share_cores
from utils.runs.run_folder import how_to_continue, newest_step
from utils.training.signals import heed_only_the_trainer

WORKER_TIMEOUT = 120  # s for one batch


def _start_worker(num_workers: int, worker: int) -> None:
    heed_only_the_trainer(worker)
    share_cores(num_workers)


class BatchError(UserError):
    """A batch that does not come, because of a process that reads clips."""


class Batches:
    """Batches of `dataset` for ever, in the order of `sampler`, as torch's default_collate makes them of samples, or a
    method `collate` of the dataset.

    Workers change the speed, never the samples. recent: the newest `keep` batches. Raises BatchError if a worker dies
    or needs more than WORKER_TIMEOUT seconds, DataError if too many clips can no longer be read.
    """

    def __init__(
        self,
        dataset: ReadableClips,
        batch_size: int,
        num_workers: int,
        sampler: Sampler,
        pin_memory: bool = False,
        keep: int = 1,
    ):
        self.dataset, self.batch_size = dataset, batch_size
        self.loader = DataLoader(
            dataset,
            batch_size,
            sampler=sampler,
            num_workers=num_workers,
            collate_fn=getattr(dataset, "collate", None),
            pin_memory=pin_memory,
            timeout=WORKER_TIMEOUT if num_workers else 0,
            worker_init_fn=partial(_start_worker, num_workers),
            generator=torch.Generator(),  # its own: the loader must not draw from the training's random state
        )
        self.batches: Iterator[dict] | None = None  # workers start with the first batch
        self.order = iter(sampler)  # once more, to say which clips were waited for
        self.recent: deque[dict] = deque(maxlen=keep)

    def __iter__(self) -> Iterator[dict]:
        return self

    def __next__(self) -> dict:
        awaited = list(islice(self.order, self.batch_size))
        try:
            with _deaths_noticed() if self.loader.num_workers else nullcontext():
                if self.batches is None:
                    self.batches = iter(self.loader)
                batch = next(self.batches)
        except (RuntimeError, OSError) as error:
            raise self._explained(error, awaited) from None
        except DataError as error:  # of a worker: the last line of its traceback is ours
            raise DataError(str(error)) from None
        if "unreadable" in batch:
            self.dataset.report_unreadable(batch.pop("unreadable"))
        self.recent.append(batch)
        return batch

    def close(self) -> None:
        """Let the workers go.

        Left to the garbage collector, each would be waited for in vain for 5 s: by then the queue is closed through
        which they are told to leave.
        """
        self.batches = None

    def _explained(self, error: RuntimeError | OSError, awaited: list[tuple[int, int]]) -> Exception:
        """The error of a loader that lacks a worker, or shared memory, in one line; any other error as it is."""
        text = " ".join(str(error).split())
        clips = names([self.dataset.path(index) for _, index in awaited])
        remedy = "use --num_workers 0, or give more shared memory (/dev/shm; docker run --shm-size 8g)"
        if text.startswith("DataLoader timed out"):
            return BatchError(
                f"--num_workers: a worker that reads {clips} has not answered for {WORKER_TIMEOUT} s; look at these "
                "files and their disk, or use --num_workers 0, which waits as long as it takes"
            )
        if text.startswith("DataLoader worker"):
            return BatchError(
                f"--num_workers: a worker died before {clips} came, most often for want of memory or shared memory; "
                f"{remedy} ({text[:160]})"
            )
        if "shared memory" in text:
            return BatchError(f"--num_workers: workers have too little shared memory for batches; {remedy}")
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.ENOMEM, errno.EAGAIN, errno.EMFILE):
            return BatchError(f"--num_workers: workers cannot be started ({error.strerror}); {remedy}")
        return error


def names(clips: list[Path | str]) -> str:
    """The first clips by their names, for a message."""
    first = ", ".join(printable(Path(clip).name) for clip in clips[:4])
    return first + (f" and {len(clips) - 4} more" if len(clips) > 4 else "")


@contextmanager
def _deaths_noticed() -> Iterator[None]:
    """Raises RuntimeError if a worker has died, or dies inside the block.

    torch by itself raises it out of the signal that a child has died, wherever the program is by then: between the step
    of the optimizer and that of the moving average, say, where no state is worth saving.
    """

    def notice(*_) -> None:
        torch._C._error_if_any_worker_fails()

    signal.signal(signal.SIGCHLD, notice)
    try:
        notice()
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@contextmanager
def saved_first(save: Callable[[], None], run_dir: Path, finished: Callable[[], int]) -> Iterator[None]:
    """A failure of the data, not of the training, loses no step: save() comes before it is passed on.

    finished(): the number of finished steps. With several processes nothing is saved, because saving needs all of them.
    """
    try:
        yield
    except (BatchError, DataError) as error:
        if finished() > newest_step(run_dir) and not torch.distributed.is_initialized():
            save()
        raise type(error)(f"{error}; {how_to_continue(run_dir)}") from None
