"""Out of memory, on a GPU or on the machine itself, told in one line with what helps."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from utils.cli import UserError, out_of_memory


@contextmanager
def explain_out_of_memory(remedies: str, settings: Mapping, run_dir: Path | None = None) -> Iterator[None]:
    """Turns out of memory into a UserError.

    remedies: the flags that help, in the order to try them; `settings` tells their values. run_dir: of a training, to
    name what it continues from.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        reason = out_of_memory(error)
        if reason is None:
            raise
        flags = dict.fromkeys(re.findall(r"--(\w+)", remedies))
        values = [f"--{flag} {settings[flag]}" for flag in flags if settings.get(flag) not in (None, False)]
        where = "on this machine"
        if isinstance(error, torch.OutOfMemoryError) or "CUDA" in reason:
            peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
            where = f"on the GPU, {peak / 2**30:.1f} GiB at the peak"
        continuing = ""
        if run_dir is not None:
            from utils.runs.run_folder import how_to_continue

            continuing = f"; {how_to_continue(run_dir)}"
        raise UserError(
            f"out of memory {where}, with {', '.join(values)}; in this order: {remedies}{continuing} ({reason})"
        ) from None
