"""Image models that two processes learn from: spread over both they take the steps that two whole copies take."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.latents.test_image_model import FLAGS
from tests.processes.running import launch
from tests.text2video.running import losses
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.video.encode import write_image

WAYS = {
    "all": ("--trainable", "all"),
    "temporal": ("--trainable", "temporal"),
    "lora": ("--trainable", "lora", "--lora_rank", 2),
    "motion": ("--network", "motion", "--trainable", "temporal"),
    "lora around motion": ("--network", "motion", "--trainable", "lora", "--lora_rank", 2),
}


def test_batches_of_pictures_leave_out_what_is_over_time(data, pipelines, tmp_path):
    """In two processes, too: parameters that a step does not use are waited for by none."""
    mixed = shutil.copytree(data, tmp_path / "mixed")
    for clip in sorted((mixed / "videos").glob("*.mp4")):
        write_image(clip.with_name(f"{clip.stem}_first.png"), read_frames(probe_video(clip), [0])[0])
        shutil.copy(mixed / "captions" / f"{clip.stem}.txt", mixed / "captions" / f"{clip.stem}_first.txt")
    flags = ("--data_dir", mixed, "--output_dir", tmp_path / "run", "--init_from_2d", pipelines["v1"], *FLAGS)
    flags += ("--preset", "base", "--no_wandb", "--log_every", 1, "--image_share", 0.5, "--trainable", "all")
    launch(tmp_path, "with_whole_weights", "train_text2video", *flags, "--max_train_steps", 6)
    assert len(losses(tmp_path / "run")) == 6


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_fsdp_learns_an_image_model_as_two_whole_copies_do(data, pipelines, tmp_path, way, precision):
    """Autoencoder and text encoder, in which nothing learns, are in one piece: they are called by themselves."""
    found = {}
    for patch in ("with_whole_weights", "with_spread_weights"):
        folder: Path = tmp_path / patch
        folder.mkdir()
        flags = ("--data_dir", data, "--output_dir", folder / "run", "--init_from_2d", pipelines["v1"], *FLAGS)
        flags += ("--preset", "base", "--no_wandb", "--mixed_precision", precision, "--log_every", 1)
        said = launch(folder, patch, "train_text2video", *flags, "--max_train_steps", 2, *WAYS[way])
        found[patch] = losses(folder / "run")
    assert int(re.search(r"SPREAD (\d+)", said)[1]) > 100, said
    tolerance = 1e-4 if precision == "no" else 0.05
    np.testing.assert_allclose(found["with_spread_weights"], found["with_whole_weights"], rtol=tolerance)
