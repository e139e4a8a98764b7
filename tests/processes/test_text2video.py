"""Text to video in two processes: one set of weights, in both or spread over them."""

import re

import numpy as np
import pytest
import torch

from tests.processes.running import TRAIN, launch, launched
from tests.text2video.running import losses
from utils.runs.checkpoint import list_checkpoints, load_checkpoint
from utils.runs.model_file import load_model, unpack_model


@pytest.fixture(scope="module")
def whole_weights(data, tmp_path_factory):
    """Three steps of two processes with whole weights: the run folder, and what they said."""
    folder = tmp_path_factory.mktemp("two_processes")
    flags = ("--data_dir", data, "--output_dir", folder / "run", *TRAIN, "--max_train_steps", 3)
    return folder / "run", launch(folder, "with_whole_weights", "train_text2video", *flags)


def test_two_processes_share_the_work_and_agree(whole_weights, tmp_path):
    """One set of weights in both; then the prompts are split over two as well."""
    run, said = whole_weights
    found = re.findall(r"PROBE (\d) 2 (\w{64})", said)
    assert sorted(rank for rank, _ in found) == ["0", "1"] and len({weights for _, weights in found}) == 1, said
    assert len(losses(run)) == 3
    flags = ("--checkpoint", run, "--output_dir", tmp_path / "out", "--num_inference_steps", 2)
    flags += ("--prompts", "a red circle", "a blue square", "a green circle")
    launch(tmp_path, "as_one_of_two", "generate_text2video", *flags)
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 3 and (tmp_path / "out" / "index.html").exists()


@pytest.mark.slow
def test_fsdp_trains_as_two_whole_copies_do_and_resumes(whole_weights, data, tmp_path):
    """Two processes that hold half of each weight take the same steps as two with whole ones, and their checkpoint and
    model files hold whole tensors."""
    expected_run, run = whole_weights[0], tmp_path / "run"
    for name, flags in (("first", (1,)), ("resumed", (3, "--resume", "latest"))):
        (tmp_path / name).mkdir()
        flags = ("--data_dir", data, "--output_dir", run, *TRAIN, "--max_train_steps", *flags)
        said = launch(tmp_path / name, "with_spread_weights", "train_text2video", *flags)
        assert int(re.search(r"SPREAD (\d+)", said)[1]) > 100, said
    np.testing.assert_allclose(losses(run), losses(expected_run), rtol=1e-4)
    expected, _ = load_checkpoint(list_checkpoints(expected_run)[0])
    found, _ = load_checkpoint(list_checkpoints(run)[0])
    for group in ("unet", "text_encoder", "ema"):
        torch.testing.assert_close(found[group], expected[group], rtol=1e-3, atol=1e-4)
    unpack_model(load_model(run))


@pytest.mark.parametrize(
    "script, flags, said",
    [
        ("train_text2video", ("--optimizer", "muon"), "--optimizer: muon needs whole matrices"),
        ("train_autoencoder", ("--optimizer", "adamw"), "FSDP spreads no network of this script"),
        ("train_policy", (), "FSDP spreads no network of this script"),
    ],
)
def test_what_fsdp_cannot_spread_is_one_line(data, tmp_path, script, flags, said):
    ended = launched(tmp_path, "with_spread_weights", script, "--data_dir", data, "--no_wandb", *flags)
    assert all(said in each.refused() for each in ended)
