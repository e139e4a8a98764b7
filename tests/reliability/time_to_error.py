"""How long a user waits for a clear error: every script as a process of its own, from start to exit status 2.

    python -m tests.reliability.time_to_error [--json FILE]

Each must take less than 10 seconds, hubs that cannot be reached or do not answer included; on a machine that needs long
for the imports of torch and diffusers, less than twice those and the seconds in which a hub may answer. A wandb that
cannot be reached may hold a training up by 15 seconds, and must not end it. What other programs keep a script waiting
for a core does not count.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path

from PIL import Image

from tests.faults.place import TRAIN, TRAIN_SVD, Ended, Place, Shared
from utils.cli import printable
from utils.hub import PROBE_SECONDS
from utils.runs.checkpoint import list_checkpoints

LIMIT, WANDB_LIMIT = 10, 15  # s
IMPORTS = "from diffusers import UNet2DConditionModel; from diffusers.training_utils import EMAModel; import accelerate"
NOWHERE = "http://127.0.0.1:9"  # nothing listens here


@dataclass(frozen=True)
class Waited:
    case: str
    seconds: float
    said: str
    held: bool

    def show(self, folder: str) -> None:
        print(f"{self.seconds:5.1f} s  {self.case}{'' if self.held else '  NOT HELD'}")
        print(f"         {printable(self.said).replace(folder, '')[:160]}", flush=True)


@dataclass(frozen=True)
class Case:
    """A command that must end with status 2."""

    name: str
    script: str
    flags: tuple
    environment: dict[str, str] = field(default_factory=dict)


def quick_cases(place: Place) -> Iterator[Case]:
    """What is refused before torch is imported."""
    text, nothing = place.folder / "text.pth", place.folder / "nothing"
    text.write_text("no model")
    empty = place.folder / "empty"
    empty.mkdir()
    data, videos = ("--data_dir", place.shared.data), place.shared.data / "videos"
    yield Case("misspelt flag", "train_text2video", (*data, "--batchsize", 2))
    yield Case("bad values", "train_text2video", (*data, "--batch_size", 0, "--learning_rate", "nan", "--seed", -1))
    yield Case("no data folder", "train_text2video", ("--data_dir", nothing))
    yield Case("output is a file", "train_text2video", (*data, "--output_dir", text))
    yield Case("no checkpoint", "generate_text2video", ("--checkpoint", nothing, "--prompts", "a"))
    yield Case("no checkpoint", "evaluate_text2video", (*data, "--checkpoint", nothing))
    yield Case("no videos", "prepare_dataset", ("--video_dir", empty, "--output_dir", place.out))
    yield Case("output in the input", "prepare_dataset", ("--video_dir", videos, "--output_dir", videos / "x"))
    yield Case("no picture", "infer_svd", ("--model_dir", place.shared.svd, "--input_image", nothing))
    yield Case("no folder to check", "video_dataset", ("--check", nothing))


def cases(place: Place, silent: str) -> Iterator[Case]:
    """What needs the data or a model. silent: the address of a server that takes connections and never answers."""
    shared, folder, out = place.shared, place.folder, ("--output_dir", place.out)
    empty, text = folder / "empty", folder / "text.pth"
    (folder / "prompts.txt").touch()
    Image.new("1", (20_000, 20_000)).save(folder / "huge.png")
    damaged = folder / "damaged"
    place.train("--output_dir", damaged, "--max_train_steps", 2, "--checkpoint_every", 1).done()
    for checkpoint in list_checkpoints(damaged):
        (checkpoint / "state.json").write_text("{}")

    train = ("--data_dir", shared.data, *TRAIN)
    yield Case("empty data folder", "train_text2video", ("--data_dir", empty, *TRAIN, *out))
    yield Case("clips too short", "train_text2video", (*train, *out, "--num_frames", 64))
    yield Case("no model to start from", "train_text2video", (*train, *out, "--init_from", text))
    yield Case("nothing to resume", "train_text2video", (*train, *out, "--resume", "latest"))
    yield Case("all checkpoints damaged", "train_text2video", (*train, "--resume", damaged))
    run_dir = ("--resume", shared.run_dir)
    yield Case("other settings on resume", "train_text2video", (*train, *run_dir, "--learning_rate", 0.5))

    svd, frames = ("--pretrained_model_name", shared.svd), ("--dataset_dir", shared.frames, *TRAIN_SVD, *out)
    yield Case("no clips", "train_svd", (*svd, "--dataset_dir", empty, *TRAIN_SVD, *out))
    yield Case("no SVD", "train_svd", (*frames, "--pretrained_model_name", empty))
    yield Case("nothing to resume", "train_svd", (*svd, *frames, "--resume", "latest"))

    model, picture = ("--checkpoint", shared.run_dir, *out), ("--input_image", shared.picture, *out)
    yield Case("text as a checkpoint", "generate_text2video", ("--checkpoint", text, "--prompts", "a"))
    yield Case("no prompts in the file", "generate_text2video", (*model, "--prompts_file", folder / "prompts.txt"))
    yield Case("too many steps", "generate_text2video", (*model, "--prompts", "a", "--num_inference_steps", 5000))
    huge = ("--input_image", folder / "huge.png", *out)
    yield Case("picture of 400 megapixels", "infer_svd", ("--model_dir", shared.svd, *huge))
    yield Case("no SVD", "infer_svd", ("--model_dir", empty, *picture))

    for name, address in (("unreachable", NOWHERE), ("silent", silent)):
        hub = {"HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "hub"), "HF_ENDPOINT": address}
        clip = ("--text_encoder", "openai/clip-vit-large-patch14")
        yield Case(f"hub {name}, CLIP", "train_text2video", (*train, *out, *clip), hub)
        yield Case(f"hub {name}, SVD", "train_svd", frames, hub)
        yield Case(f"hub {name}, SVD", "infer_svd", ("--model_dir", "stabilityai/svd", *picture), hub)


def run_timed(place: Place, script: str, flags: tuple, environment: dict[str, str]) -> tuple[Ended, float]:
    """(how the script ended, seconds from start to end, less those that it was kept waiting for a busy core)."""
    started = time.monotonic()
    process = place.start(script, *flags, **environment)
    said = process.stdout.read()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    seconds = time.monotonic() - started
    _, kept_waiting, _ = Path(f"/proc/{process.pid}/schedstat").read_text().split()
    return Ended(process.wait(), said), seconds - int(kept_waiting) / 1e9


def import_seconds() -> float:
    """How long it takes on this machine to import what the trainers import: the median of three."""
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        subprocess.run([sys.executable, "-c", IMPORTS], check=True, capture_output=True)
        seconds.append(time.monotonic() - start)
    return statistics.median(seconds)


def time_errors(place: Place, cases: Iterable[Case], limit: float = LIMIT) -> Iterator[Waited]:
    for case in cases:
        ended, seconds = run_timed(place, case.script, case.flags, case.environment)
        said = [line for line in ended.said.splitlines() if "error: " in line] or [ended.said[-300:]]
        clear = ended.status == 2 and "error: " in said[0] and "Traceback" not in ended.said
        yield Waited(f"{case.script}: {case.name}", round(seconds, 1), said[0], clear and seconds < limit)


def time_wandb(place: Place, silent: str) -> Iterator[Waited]:
    """How much longer a training takes than one that is told to log offline."""
    flags = ("--data_dir", place.shared.data, *TRAIN, "--report_to", "wandb", "--max_train_steps", 1, "--output_dir")
    online = {"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40}
    _, usual = run_timed(place, "train_text2video", (*flags, place.folder / "offline"), {"WANDB_MODE": "offline"})
    for name, address in (("unreachable", NOWHERE), ("silent", silent)):
        environment = {**online, "WANDB_BASE_URL": address}
        ended, seconds = run_timed(place, "train_text2video", (*flags, place.folder / name), environment)
        held = ended.status == 0 and "logging offline" in ended.said and seconds - usual < WANDB_LIMIT
        said = [line for line in ended.said.splitlines() if "logging offline" in line] or [ended.said[-300:]]
        yield Waited(f"train_text2video: wandb {name}", round(seconds - usual, 1), said[0], held)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    args = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline")
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        place = Place(Path(name, "place"), Shared(Path(name, "shared")))
        silent = f"http://127.0.0.1:{server.getsockname()[1]}"
        errors, wandb, imports = [], [], import_seconds()
        limit = max(LIMIT, 2 * imports + PROBE_SECONDS)
        for waited in time_errors(place, chain(quick_cases(place), cases(place, silent)), limit):
            errors.append(waited)
            waited.show(name)
        for waited in time_wandb(place, silent):
            wandb.append(waited)
            waited.show(name)
    slowest, held_up = (max(results, key=lambda waited: waited.seconds) for results in (errors, wandb))
    held = sum(waited.held for waited in errors + wandb)
    print(f"importing torch and diffusers takes {imports:.1f} s here; limit of an error {limit:.1f} s")
    print(f"slowest of {len(errors)} errors: {slowest.seconds} s ({slowest.case})")
    print(f"wandb that does not answer holds a training up by {held_up.seconds} s, limit {WANDB_LIMIT} s")
    print(f"{held} of {len(errors + wandb)} held")
    if args.json:
        summary = {"slowest": asdict(slowest), "wandb": asdict(held_up), "held": held}
        summary["each"] = [asdict(waited) for waited in errors + wandb]
        args.json.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(held < len(errors + wandb))


if __name__ == "__main__":
    sys.exit(main())
