"""How long a user waits for a clear error: every script as a process of its own, from start to exit status 2.

    python -m tests.time_to_error [--json FILE]

Each must take less than 10 seconds, hubs that cannot be reached or do not answer included. A wandb that cannot be
reached may hold a training up by 15 seconds, and must not end it. What other programs keep a script waiting for a core
does not count.
"""

import argparse
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from tests.faults.place import TRAIN, TRAIN_SVD, Ended, Place, Shared
from utils.checkpoint import list_checkpoints
from utils.cli import printable

LIMIT, WANDB_LIMIT = 10, 15  # s
NOWHERE = "http://127.0.0.1:9"  # nothing listens here


@dataclass(frozen=True)
class Waited:
    case: str
    seconds: float
    said: str
    held: bool


def cases(place: Place, silent: str) -> Iterator[tuple]:
    """(name, script, flags, environment). silent: the address of a server that takes connections and never answers."""
    shared, folder, out = place.shared, place.folder, ("--output_dir", place.out)
    empty, text, nothing = folder / "empty", folder / "text.pth", folder / "nothing"
    empty.mkdir()
    text.write_text("no model")
    (folder / "prompts.txt").touch()
    Image.new("1", (20_000, 20_000)).save(folder / "huge.png")
    damaged = folder / "damaged"
    place.train("--output_dir", damaged, "--max_train_steps", 2, "--checkpoint_every", 1).done()
    for checkpoint in list_checkpoints(damaged):
        (checkpoint / "state.json").write_text("{}")
    fresh_cache = {"HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "hub")}
    data, frames, svd = ("--data_dir", shared.data), ("--dataset_dir", shared.frames), ("--model_dir", shared.svd)
    train_svd = (*frames, "--pretrained_model_name", shared.svd, *TRAIN_SVD)
    picture = ("--input_image", shared.picture)

    yield "misspelt flag", "train_text2video", (*data, "--batchsize", 2), {}
    yield "five bad values", "train_text2video", (*data, "--batch_size", 0, "--learning_rate", "nan", "--seed", -1), {}
    yield "no data folder", "train_text2video", ("--data_dir", nothing, *TRAIN), {}
    yield "empty data folder", "train_text2video", ("--data_dir", empty, *TRAIN), {}
    yield "output is a file", "train_text2video", (*data, *TRAIN, "--output_dir", text), {}
    yield "clips too short", "train_text2video", (*data, *TRAIN, *out, "--num_frames", 64), {}
    yield "no model to start from", "train_text2video", (*data, *TRAIN, *out, "--init_from", text), {}
    yield "nothing to resume", "train_text2video", (*data, *TRAIN, *out, "--resume", "latest"), {}
    yield "all checkpoints damaged", "train_text2video", (*data, *TRAIN, "--resume", damaged), {}
    yield "other settings on resume", "train_text2video", (*data, *TRAIN, "--resume", damaged, "--seed", 7), {}
    for name, address in (("unreachable", NOWHERE), ("silent", silent)):
        hub = {**fresh_cache, "HF_ENDPOINT": address}
        yield f"hub {name}, CLIP", "train_text2video", (*data, *TRAIN, *out, "--text_encoder", "openai/clip"), hub
        yield f"hub {name}, SVD", "train_svd", (*frames, *TRAIN_SVD, *out), hub
        yield f"hub {name}, SVD", "infer_svd", ("--model_dir", "stabilityai/svd", *picture, *out), hub
    yield "no checkpoint", "generate_text2video", ("--checkpoint", nothing, "--prompts", "a"), {}
    yield "text as a checkpoint", "generate_text2video", ("--checkpoint", text, "--prompts", "a"), {}
    yield (
        "no prompts in the file",
        "generate_text2video",
        (*("--checkpoint", shared.run_dir, "--prompts_file", folder / "prompts.txt"),),
        {},
    )
    yield (
        "too many steps",
        "generate_text2video",
        (*("--checkpoint", shared.run_dir, "--prompts", "a", *out, "--num_inference_steps", 5000),),
        {},
    )
    yield "no videos", "prepare_dataset", ("--video_dir", empty, *out), {}
    yield (
        "output in the input",
        "prepare_dataset",
        (*("--video_dir", shared.data / "videos", "--output_dir", shared.data / "videos" / "x"),),
        {},
    )
    yield "no clips", "train_svd", ("--dataset_dir", empty, "--pretrained_model_name", shared.svd, *TRAIN_SVD, *out), {}
    yield "no SVD", "train_svd", (*frames, "--pretrained_model_name", empty, *TRAIN_SVD, *out), {}
    yield "nothing to resume", "train_svd", (*train_svd, *out, "--resume", "latest"), {}
    yield "no picture", "infer_svd", (*svd, "--input_image", nothing, *out), {}
    yield "picture of 400 megapixels", "infer_svd", (*svd, "--input_image", folder / "huge.png", *out), {}
    yield "no SVD", "infer_svd", ("--model_dir", empty, *picture, *out), {}
    yield "no checkpoint", "evaluate_text2video", (*data, "--checkpoint", nothing, *out), {}
    yield "no folder to check", "video_dataset", ("--check", nothing), {}


def run_timed(place: Place, script: str, flags: tuple, environment: dict[str, str]) -> tuple[Ended, float]:
    """(how the script ended, seconds from start to end, less those that it was kept waiting for a busy core)."""
    started = time.monotonic()
    process = place.start(script, *flags, **environment)
    said = process.stdout.read()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    seconds = time.monotonic() - started
    _, kept_waiting, _ = Path(f"/proc/{process.pid}/schedstat").read_text().split()
    return Ended(process.wait(), said), seconds - int(kept_waiting) / 1e9


def time_errors(place: Place, silent: str) -> Iterator[Waited]:
    for name, script, flags, environment in cases(place, silent):
        ended, seconds = run_timed(place, script, flags, environment)
        clear = ended.status == 2 and "Traceback" not in ended.said and "error: " in ended.said
        said = [line for line in ended.said.splitlines() if "error: " in line] or [ended.said[-300:]]
        yield Waited(f"{script}: {name}", round(seconds, 1), said[0], clear and seconds < LIMIT)


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
        errors, wandb = [], []
        for results, found in ((errors, time_errors(place, silent)), (wandb, time_wandb(place, silent))):
            for waited in found:
                results.append(waited)
                verdict = "" if waited.held else "  NOT HELD"
                print(f"{waited.seconds:5.1f} s  {waited.case}{verdict}", flush=True)
                print(f"         {printable(waited.said).replace(name, '')[:160]}", flush=True)
    slowest, held_up = (max(results, key=lambda waited: waited.seconds) for results in (errors, wandb))
    held = sum(waited.held for waited in errors + wandb)
    print(f"slowest of {len(errors)} errors: {slowest.seconds} s ({slowest.case}), limit {LIMIT} s")
    print(f"wandb that does not answer holds a training up by {held_up.seconds} s, limit {WANDB_LIMIT} s")
    print(f"{held} of {len(errors + wandb)} held")
    if args.json:
        summary = {"slowest": asdict(slowest), "wandb": asdict(held_up), "held": held}
        summary["each"] = [asdict(waited) for waited in errors + wandb]
        args.json.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(held < len(errors + wandb))


if __name__ == "__main__":
    sys.exit(main())
