"""A function in a process of its own, for work that threads cannot share."""

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from utils.cli import UserError

ROOT = Path(__file__).parents[1]


class Worker:
    """Calls module.function(*values) in another process; values and results are plain and travel as JSON.

    Not forked, for threads of libraries may hold locks at that moment, and not multiprocessing's, which would run the
    user's script once more. It ends with `close`, or when this process ends, however it ends.
    """

    def __init__(self, module: str, function: str):
        command = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
            f"from utils.workers import serve; serve({module!r}, {function!r})"
        )
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, "-c", command], text=True, encoding="utf-8", **pipes)

    def __call__(self, *values) -> object:
        """Raises UserError if the process has died."""
        try:
            self.process.stdin.write(json.dumps(values) + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (OSError, ValueError):
            raise UserError("a process died that helped, perhaps for want of memory; run again") from None

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def serve(module: str, function: str) -> None:
    """The other process: answers line by line until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    call = getattr(importlib.import_module(module), function)
    for line in sys.stdin:
        answers.write(json.dumps(call(*json.loads(line))) + "\n")
        answers.flush()
