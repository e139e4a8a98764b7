"""Run a script with library calls patched: python -m tests.faults.runner PATCH SCRIPT FLAGS ...

PATCH is module:function, a function that patches what it likes before the script starts (say
tests.faults.numbers:nan_loss_at_step_3); what follows another colon is its argument. The script then runs exactly as
`python SCRIPT.py FLAGS ...` does.
"""

import importlib
import sys

from utils import cli


def main() -> None:
    run_patched(*sys.argv[1:3], sys.argv[3:])


def run_patched(patch: str | None, script: str, flags: list[str]) -> None:
    if patch:
        module, function, *argument = patch.split(":")
        getattr(importlib.import_module(module), function)(*argument)
    sys.argv = [f"{script}.py", *flags]
    program = importlib.import_module(script)
    cli.run(lambda: program.main(program.parse_args(flags)))


if __name__ == "__main__":
    main()
