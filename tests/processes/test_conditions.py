"""Trainings of two processes with conditions: one set of weights in both, spread over them or not."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.conditions.conftest import ALL
from tests.processes.running import TRAIN, launch
from tests.text2video.running import losses
from utils.runs.checkpoint import list_checkpoints, load_checkpoint


@pytest.fixture(scope="module")
def whole_weights(known_clips, tmp_path_factory) -> tuple[Path, str]:
    """Two steps with every condition: the run folder, and what both processes said."""
    folder = tmp_path_factory.mktemp("two_processes")
    flags = ("--data_dir", known_clips, "--output_dir", folder / "run", *TRAIN, *ALL, "--max_train_steps", 2)
    return folder / "run", launch(folder, "with_whole_weights", "train_text2video", *flags)


def of_conditions(run: Path) -> dict:
    tensors, _ = load_checkpoint(list_checkpoints(run)[0])
    return {name: each for name, each in tensors["unet"].items() if name.startswith("conditions.")}


def test_two_processes_agree_on_conditions(whole_weights):
    run, said = whole_weights
    found = re.findall(r"PROBE (\d) 2 (\w{64})", said)
    assert sorted(rank for rank, _ in found) == ["0", "1"] and len({weights for _, weights in found}) == 1, said
    learnt = of_conditions(run)
    for name in (
        "grids.known.conv_out",
        "grids.depth.conv_out",
        "frames.vectors.linear_out",
        "frames.audio.linear_out",
    ):
        assert learnt[f"conditions.{name}.weight"].abs().max() > 0, name


@pytest.mark.slow
def test_fsdp_learns_conditions_as_two_whole_copies_do(whole_weights, known_clips, tmp_path):
    expected = whole_weights[0]
    flags = ("--data_dir", known_clips, "--output_dir", tmp_path / "run", *TRAIN, *ALL, "--max_train_steps", 2)
    said = launch(tmp_path, "with_spread_weights", "train_text2video", *flags)
    assert int(re.search(r"SPREAD (\d+)", said)[1]) > 100, said
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(expected), rtol=1e-4)
    for name, tensor in of_conditions(expected).items():
        np.testing.assert_allclose(of_conditions(tmp_path / "run")[name], tensor, rtol=1e-3, atol=1e-4)
