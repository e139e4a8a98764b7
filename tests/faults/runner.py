"""A script with library calls patched."""

import importlib
import sys

from utils import cli


def run_patched(patch: str | None, script: str, flags: list[str]) -> None:
    """Run a script in this process exactly as `python SCRIPT.py FLAGS ...` does.

    patch: module:function, a function that patches what it likes before the script starts (say
    tests.faults.failures.disk:full_at_the_second_checkpoint); what follows another colon is its argument.
    """
    if patch:
        module, function, *argument = patch.split(":")
        getattr(importlib.import_module(module), function)(*argument)
    sys.argv = [f"{script}.py", *flags]
    program = importlib.import_module(script)
    cli.run(lambda: program.main(program.parse_args(flags)))
