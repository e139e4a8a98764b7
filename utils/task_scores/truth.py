"""Clips of the demo with all that is known of them, for prompts of the benchmark: what a task is given, and what is
right."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from utils.conditions.clip_conditions import AUDIO, ClipConditions
from utils.conditions.known_clips import KnownClips
from utils.demo_data import shapes
from utils.demo_data.demo_dataset import FOLDERS, write_files
from utils.evaluation.judge import VALUES, wanted

SEED = 0x7A5C  # of where objects are, other than any training clip's


@dataclass
class Truth:
    """A clip that shows what its prompt says.

    video: (3, T, H, W) in [-1, 1]. path: (T, 2), the object's centre x and y, as shares of the frame. radius: the
    same. conditions: {"depth": (1, T, H, W), "vectors": (T, 4), "audio": (T, bands)}, those that were asked for.
    """

    prompt: str
    attributes: dict[str, str]
    video: torch.Tensor
    path: np.ndarray
    radius: float
    conditions: dict[str, torch.Tensor]


def make_truths(
    prompts: list[str], folder: Path, demo: dict, read: Callable, reading: dict, names: list[str]
) -> list[Truth]:
    """A clip for each prompt of shapes.benchmark_prompts, written into the folder as video_dataset.py writes the demo's
    and read as training reads it. What a prompt leaves open is drawn at random.

    demo: the settings of the dataset. read, reading: TextVideoDataset, and its arguments for the model's training.
    names: the conditions that are wanted.
    """
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    num_frames, size, fps = demo["num_frames"], demo["frame_size"], demo["fps"]
    objects = []
    for n, prompt in enumerate(prompts):
        rng = np.random.default_rng([SEED, n])
        asked = {name: value or str(rng.choice(VALUES[name])) for name, value in wanted(prompt).items()}
        objects.append([shapes.place(asked, num_frames, size, rng)])
        background = shapes.texture(size, size, rng) if demo["hard"] else None
        frames = shapes.draw(objects[-1], num_frames, size, background)
        write_files(folder, f"{n:05d}", frames, prompt, objects[-1], fps, conditions=True)

    reading = reading | {"max_samples": None, "caption_encoding": "utf-8-sig", "video_column": None}
    dataset = read(folder, **reading | {"caption_column": None}, augment=False, split="all")
    infos = [info for info, _ in dataset.items]
    maps, vectors = (["depth"] * ("depth" in names), ["vectors"] * ("vectors" in names))
    known = KnownClips(dataset, ClipConditions(folder, infos, maps, vectors, AUDIO in names))
    truths = []
    for n, prompt in enumerate(prompts):
        sample = known[n]
        thing, frames = objects[n][0], known.indices(0, n)
        path = np.array(thing["path"])[frames] / size
        truths.append(
            Truth(prompt, wanted(prompt), sample["video"], path, thing["radius"] / size, sample["conditions"])
        )
    return truths
