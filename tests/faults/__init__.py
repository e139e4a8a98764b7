"""Faults, a row for each: what befalls long runs, and what the scripts must make of it.

    python -m tests.faults [--json FILE] [--only F1 F2]

A row starts the scripts as a user does, each in a process of its own, and strikes from outside: signals, limits, small
file systems, damaged files, and library calls patched by tests/faults/runner.py in the process of the script. No code
of the product knows about it.
"""

from tests.faults.failures import disk, memory, network, numbers, workers  # noqa: F401  (they fill ROWS)
from tests.faults.place import ROWS, Place, Shared  # noqa: F401
from tests.faults.stops import checkpoints, exactness, generation, lock, signals  # noqa: F401
