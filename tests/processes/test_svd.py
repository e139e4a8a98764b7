"""Fine-tuning SVD in two processes: spread over both it takes the steps that two whole copies take."""

import re

import numpy as np
import pytest

from tests.processes.running import launch
from tests.svd.running import FRAMES, losses
from utils.runs.checkpoint import list_checkpoints, load_checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["temporal", "all", "lora"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_fsdp_learns_as_two_whole_copies_do(pipeline_dir, dataset, tmp_path, trainable, precision):
    found, tensors = {}, {}
    for patch in ("with_whole_weights", "with_spread_weights"):
        folder = tmp_path / patch
        folder.mkdir()
        flags = ("--pretrained_model_name", pipeline_dir, "--dataset_dir", dataset, "--output_dir", folder / "run")
        flags += ("--num_frames", FRAMES, "--width", 64, "--height", 64, "--mixed_precision", precision, "--no_wandb")
        flags += ("--num_workers", 0, "--learning_rate", "1e-3", "--log_every", 1, "--num_validation_clips", 1)
        flags += ("--sample_every", 100, "--max_train_steps", 2, "--trainable", trainable, "--checkpoint_every", 2)
        said = launch(folder, patch, "train_svd", *flags)
        found[patch] = losses(folder / "run")
        tensors[patch] = load_checkpoint(list_checkpoints(folder / "run")[0])[0]["trained"]
    assert int(re.search(r"SPREAD (\d+)", said)[1]) > 20, said
    whole, spread = found.values()
    np.testing.assert_allclose(spread, whole, rtol=1e-4 if precision == "no" else 0.05)
    assert {name: each.shape for name, each in tensors["with_spread_weights"].items()} == {
        name: each.shape for name, each in tensors["with_whole_weights"].items()
    }
