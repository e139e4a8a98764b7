"""The figures of a part: written after each of them, so that a part which is stopped leaves what it has."""

import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

GIB = 2**30
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Rows:
    """[{"what", "measured": {figure: value}, "predicted": {figure: value}, "failed": reason}], in a JSON file.

    No row begins once `seconds` have passed.
    """

    def __init__(self, path: Path, seconds: float):
        self.path, self.end, self.rows = path, time.monotonic() + seconds, []

    @property
    def left(self) -> float:
        """Seconds until no further row begins."""
        return self.end - time.monotonic()

    def row(self, what: str, measure: Callable[[], dict], predicted: dict | None = None) -> dict:
        """What measure() finds, or {} if it fails: one figure less is no reason to lose the others."""
        row = {"what": what}
        if self.left <= 0:
            row["failed"] = "no time was left"
        else:
            try:
                row["measured"] = {name: significant(value) for name, value in measure().items()}
            except (Exception, SystemExit) as error:  # argparse ends what it refuses
                row["failed"] = reason(error)
        if predicted:
            row["predicted"] = {name: significant(value) for name, value in predicted.items()}
        self.rows.append(row)
        self.path.write_text(json.dumps(self.rows, indent=1) + "\n", encoding="utf-8")
        print(f"{what}: {row.get('measured', row.get('failed'))}", flush=True)
        tidy()
        return row.get("measured", {})


def significant(value):
    """A number with four digits that mean something; anything else as it is."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def reason(error: BaseException) -> str:
    """An error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def tidy() -> None:
    """Give back what the last row held: memory, compiled code."""
    gc.collect()
    torch.compiler.reset()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def seconds_of(call: Callable[[], object], repeats: int, warm_up: int = 2) -> float:
    """The median of `repeats` calls after some that choose kernels and make the optimizer's state."""
    for _ in range(warm_up):
        call()
    seconds = []
    for _ in range(repeats):
        synchronise()
        start = time.perf_counter()
        call()
        synchronise()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def synchronise() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def peak_gib() -> dict[str, float]:
    """{"peak_gib"} since the last row; nothing on a CPU, which does not count."""
    return {"peak_gib": torch.cuda.max_memory_allocated() / GIB} if DEVICE == "cuda" else {}


def allocated_gib() -> float:
    """What the allocator has given away; 0 on a CPU."""
    return torch.cuda.memory_allocated() / GIB if DEVICE == "cuda" else 0.0
