"""The five scripts, ready to run on tiny things, each into a folder of its own."""

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.badinput.place import KEEP_ALL
from tests.faults.forked import Script
from tests.faults.place import TRAIN, TRAIN_SVD, Ended, Place

TRAINERS = ("train_text2video", "train_svd")


def out(place: Place, script: str) -> Path:
    return place.folder / script


def flags(place: Place, script: str) -> tuple:
    """What makes the script work on the shared data, models and pictures."""
    shared = place.shared
    return {
        "train_text2video": lambda: ("--data_dir", shared.data, *TRAIN, "--max_train_steps", 5),
        "train_svd": lambda: (
            *("--pretrained_model_name", shared.svd, "--dataset_dir", shared.frames, *TRAIN_SVD),
            *("--mixed_precision", "no", "--sample_every", 10_000, "--validate_every", 10_000),
            *("--num_validation_clips", 1, "--num_inference_steps", 1, "--max_train_steps", 5),
        ),
        "generate_text2video": lambda: (
            *("--checkpoint", shared.run_dir, "--num_inference_steps", 1, "--mixed_precision", "no", "--batch_size", 1),
        ),
        "infer_svd": lambda: (
            *("--model_dir", shared.svd, "--width", 64, "--height", 64, "--num_frames", 2),
            *("--num_inference_steps", 1),
        ),
        "prepare_dataset": lambda: ("--video_dir", shared.data / "videos", "--num_workers", 0, *KEEP_ALL),
    }[script]() + ("--output_dir", out(place, script))


def start(place: Place, script: str, *more, patch: Callable | None = None, argument: object = None) -> Script:
    """A script at work. patch: a function in a module of tests.faults, see tests/faults/runner.py."""
    name = f"{patch.__module__}:{patch.__name__}" if patch else None
    if argument is not None:
        name += f":{argument}"
    return Script(place.folder / f"{script}.said", script, *flags(place, script), *more, patch=name)


def run(place: Place, script: str, *more, fresh: bool = True, **patch) -> Ended:
    """What became of it. fresh: in an empty folder."""
    if fresh:
        shutil.rmtree(out(place, script), ignore_errors=True)
    (place.folder / f"{script}.said").unlink(missing_ok=True)
    return start(place, script, *more, **patch).end(timeout=180)


def copied(folder: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to)
    return to
