"""Faults, a row for each: what befalls long runs, and what the scripts must make of it.

    python -m tests.faults [--json FILE] [--only F1 F2]

A row starts the scripts as a user does, each in a process of its own, and strikes from outside: signals, limits, small
file systems, damaged files, and library calls patched by tests/faults/runner.py in the process of the script. No code
of the product knows about it.
"""

from tests.faults import checkpoints, disk, exactness, generation, lock, memory, network, numbers, signals, workers  # noqa: F401
from tests.faults.place import ROWS, Place, Shared  # noqa: F401
