"""Signals that ask a training to stop, F3 to F5: it finishes its step, saves, says how to continue, and leaves."""

import contextlib
import os
import shlex
import signal
from pathlib import Path

from tests.faults.forked import ENDLESS, Script, Training, trainings
from tests.faults.place import Ended, Place, row
from utils.runs.checkpoint import list_checkpoints


def after_steps(training: Training, script: Script, count: int = 3, heard: int | None = None) -> Script:
    """Wait until so many steps are done. heard: the other end of its pipe or terminal, which must not fill up."""

    def done() -> bool:
        with contextlib.suppress(BlockingIOError):
            if heard is not None:
                os.read(heard, 1 << 20)
        return len(training.rows()) >= count

    return script.until(done)


def stopped(training: Training, ended: Ended, status: int) -> str:
    """It left with this status after a checkpoint of the last step that it began; what it said."""
    ended.ended(status)
    steps = [row["step"] for row in training.rows()]
    assert training.saved() == [steps[-1]], f"{training.saved()} saved of {steps}"
    assert training.hidden() == [], training.hidden()
    return f"step {steps[-1]} saved, status {status}"


def signal_in_step_2(count: int) -> None:
    """Patch the accelerator so that this process gets SIGTERM `count` times before the gradients of step 2 are there"""
    from accelerate import Accelerator

    backward, calls = Accelerator.backward, []

    def signalled(self, loss, **kwargs):
        calls.append(loss)
        for _ in range(count if len(calls) == 2 else 0):
            os.kill(os.getpid(), signal.SIGTERM)
        return backward(self, loss, **kwargs)

    Accelerator.backward = signalled


def one_signal() -> None:
    signal_in_step_2(1)


def two_signals() -> None:
    signal_in_step_2(2)


@row("F3", "SIGTERM: the step is finished and saved, the command that continues is shown and works; twice: at once")
def f3(place: Place) -> str:
    for training in trainings(place):
        ended = training.run(*ENDLESS, patch="tests.faults.stops.signals:one_signal")
        happened = stopped(training, ended, 143)
        assert training.saved() == [2]
        said = ended.ended(143, f"saved in {training.run_dir}", "SIGTERM: saving after this step").said
        python, script, *flags = shlex.split(said.rpartition("continue with: ")[2].splitlines()[0])
        assert (python, script) == ("python", f"{training.trainer}.py")
        again = Script(place.folder / f"{script}_again.txt", training.trainer, *flags)
        after_steps(training, again, 4).signal(signal.SIGKILL).end()
        assert "resuming from" in again.said
    for training in trainings(place, "group")[:1]:
        script = training.start(*ENDLESS, "--num_workers", 1, "--gradient_accumulation_steps", 4)
        stopped(training, after_steps(training, script, 1).signal(signal.SIGTERM, group=True).end(), 143)
    for training in trainings(place, "twice")[:1]:
        training.run(*ENDLESS, patch="tests.faults.stops.signals:two_signals").ended(143)
        assert not list_checkpoints(training.run_dir) and len(training.rows()) == 1, "it went on after the second"
    return happened


@row("F4", "Ctrl-C with workers and several batches a step, or in a pipe to a program that it ends: saved, status 130")
def f4(place: Place) -> str:
    for training in trainings(place):
        script = training.start(*ENDLESS, "--num_workers", 2, "--gradient_accumulation_steps", 4)
        after_steps(training, script, 1).signal(signal.SIGINT, group=True)
        happened = stopped(training, script.end(), 130)
    for training in trainings(place, "piped")[:1]:
        os.mkfifo(fifo := place.folder / f"{training.trainer}.fifo")
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        script = after_steps(training, training.start(*ENDLESS, output=fifo), heard=reader).signal(signal.SIGINT)
        os.close(reader)
        stopped(training, script.end(), 130)
    return happened


@row("F5", "SIGHUP, and a terminal that is gone with its connection: saved, status 129")
def f5(place: Place) -> str:
    for training in trainings(place):
        script = after_steps(training, training.start(*ENDLESS)).signal(signal.SIGHUP)
        happened = stopped(training, script.end(), 129)
    for training in trainings(place, "remote")[:1]:
        terminal, end = os.openpty()
        os.set_blocking(terminal, False)
        script = after_steps(training, training.start(*ENDLESS, output=Path(os.ttyname(end))), heard=terminal)
        os.close(end)
        os.close(terminal)
        stopped(training, script.end(), 129)
    return happened
