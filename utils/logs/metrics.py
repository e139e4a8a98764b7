"""The numbers of a run, a row of metrics.jsonl for each logged step."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from utils.files import write_text


class Metrics:
    """One row of numbers per logged step, in metrics.jsonl and in whatever trackers accelerate was given.

    On resume the rows after the checkpoint's step are dropped: they will be measured again.
    """

    def __init__(self, path: Path, start_step: int, log: Callable[..., None], main_process: bool):
        self.path, self.log, self.main_process = path, log, main_process
        self.rows = [row for row in read_metrics(path) if row["step"] <= start_step]
        if main_process:
            write_text(path, "".join(json.dumps(row) + "\n" for row in self.rows))

    def lacks(self, name: str, step: int) -> bool:
        """Whether there is no number of this name at this step."""
        return not any(name in row for row in self.rows if row["step"] == step)

    def write(self, step: int, **values: float) -> None:
        if not self.main_process:
            return
        row = {"step": step, "time": round(time.time(), 2), **values}
        self.rows.append(row)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.log(values, step=step)


def read_metrics(path: Path) -> list[dict]:
    """The rows of a metrics.jsonl; a last line that a kill cut short is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
