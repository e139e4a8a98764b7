"""Where a row works: folders of its own, and scripts in processes of their own."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.badinput.place import Shared  # noqa: F401  (data, models and runs that no row changes)
from tests.table import Table

ROOT = Path(__file__).parents[2]
TRAIN = (
    *("--preset", "tiny", "--mixed_precision", "no", "--no_wandb", "--num_workers", 0),
    *("--log_every", 1, "--sample_every", 10_000, "--validate_every", 10_000),
    *("--num_timesteps", 8),  # of which samples, the last ones always, take as many steps
)
TRAIN_SVD = ("--num_frames", 3, "--width", 64, "--height", 64, "--num_workers", 0, "--log_every", 1, "--no_wandb")

ROWS = Table()
row = ROWS.row


@dataclass(frozen=True)
class Ended:
    """How a script ended, and all it said."""

    status: int
    said: str

    def done(self, *words: str) -> "Ended":
        return self.ended(0, *words)

    def refused(self, *words: str) -> str:
        """Status 2, one line of error that says all of this."""
        return self.ended(2, *words).error

    def ended(self, status: int, *words: str) -> "Ended":
        assert "Traceback" not in self.said, self.said[-2000:]
        assert self.status == status, f"status {self.status}, not {status}: {self.said[-600:]}"
        for word in words:
            assert word in self.said, f"{word!r} is not in {self.said[-600:]!r}"
        return self

    @property
    def error(self) -> str:
        errors = [line for line in self.said.splitlines() if "error: " in line]
        assert len(errors) == 1, f"{len(errors)} lines of error: {self.said[-600:]}"
        return f"status {self.status}, {errors[0].partition('error: ')[2]}"


class Place:
    """The folder of one row."""

    def __init__(self, folder: Path, shared: Shared):
        self.folder, self.shared, self.out = folder, shared, folder / "out"
        folder.mkdir(parents=True)

    def start(self, script: str, *flags, **environment) -> subprocess.Popen:
        """Start a script as a user does, in a process of its own; faster, and with library calls patched: forked.py."""
        return subprocess.Popen(
            [sys.executable, str(ROOT / f"{script}.py"), *map(str, flags)],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, script: str, *flags, timeout: float = 120, **environment) -> Ended:
        process = self.start(script, *flags, **environment)
        said, _ = process.communicate(timeout=timeout)
        return Ended(process.returncode, said)

    def train(self, *flags) -> Ended:
        """Train the tiny preset on the shared data into self.out."""
        return self.run("train_text2video", "--data_dir", self.shared.data, "--output_dir", self.out, *TRAIN, *flags)
