"""Signals that ask a training to stop: it finishes its step, saves and leaves."""

import multiprocessing
import os
import signal
import threading
from contextlib import suppress

from utils.cli import Stopped


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
