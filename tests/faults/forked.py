"""Scripts in processes of their own that are forked after the imports: as good as new ones, and at work at once."""

import multiprocessing
import os
import sys
import time
from pathlib import Path

from tests.faults.place import ROOT, Ended
from tests.faults.runner import run_patched

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.imports"])


class Script:
    """A script at work in a session of its own; `terminal` is the path of its terminal if it has one."""

    def __init__(self, output: Path, script: str, *flags, patch: str | None = None, terminal: str | None = None):
        self.output = output
        words = [str(flag) for flag in flags]
        self.process = CONTEXT.Process(target=_run, args=(terminal or str(output), patch, script, words))
        self.process.start()
        self.pid = self.process.pid

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def until(self, condition, timeout: float = 60) -> "Script":
        """Wait until condition() is true of a script that is still at work."""
        end = time.monotonic() + timeout
        while not condition():
            assert self.process.is_alive(), f"ended too early: {self.said[-2000:]}"
            assert time.monotonic() < end, f"nothing happens: {self.said[-2000:]}"
            time.sleep(0.005)
        return self

    def signal(self, number: int, group: bool = False) -> "Script":
        (os.killpg if group else os.kill)(self.pid, number)
        return self

    def end(self, timeout: float = 60) -> Ended:
        self.process.join(timeout)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"still at work: {self.said[-2000:]}")
        return Ended(self.process.exitcode, self.said)


def _run(output: str, patch: str | None, script: str, flags: list[str]) -> None:
    os.setsid()
    os.chdir(ROOT)
    descriptor = os.open(output, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    for target in (1, 2):
        os.dup2(descriptor, target)
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = open(2, "w", closefd=False, buffering=1)
    run_patched(patch, script, flags)
