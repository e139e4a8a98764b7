"""Two runs in one folder, F32."""

import os
import signal
import time

from tests.faults.forked import ENDLESS, trainings
from tests.faults.place import Place, row


@row("F32", "a second run in the same folder is refused with the process that works there; kill -9 frees the folder")
def f32(place: Place) -> str:
    for training in trainings(place):
        first = training.start(*ENDLESS, "--num_workers", 2)
        first.until(lambda training=training: len(training.rows()) >= 1)
        today = time.strftime("%Y-%m-%d")
        said = training.run(*ENDLESS).refused("--output_dir", f"in use by process {first.pid} on", f"since {today}")
        steps = len(training.rows())
        first.until(lambda training=training, steps=steps: len(training.rows()) > steps)
        first.signal(signal.SIGKILL).end()
        killed = time.time()
        again = training.start(*ENDLESS)  # while the workers of the first are still there
        again.until(lambda training=training, killed=killed: any(row["time"] > killed for row in training.rows()))
        again.signal(signal.SIGKILL).end()

        (training.run_dir / ".lock").unlink()
        (training.run_dir / ".lock").symlink_to(place.folder / "target")
        training.run(*ENDLESS).refused("--output_dir", str(training.run_dir))
        assert not os.path.lexists(place.folder / "target"), "a link led out of the folder"
    return said
