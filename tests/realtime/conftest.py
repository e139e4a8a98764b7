"""The data and the runs that the tests of this folder share."""

from pathlib import Path

import pytest

from tests.text2video.conftest import data, run_dir  # noqa: F401  (fixtures)
from tests.text2video.running import train


@pytest.fixture(scope="session")
def going_on(data, tmp_path_factory) -> Path:  # noqa: F811
    """A finished run of two steps, of a model that goes on from known frames."""
    folder = tmp_path_factory.mktemp("going_on") / "run"
    tasks = ["--tasks", "text=1", "continuation=1"]
    train(data, folder, *tasks, "--max_train_steps", "2", "--num_frames", "4", "--frame_size", "16")
    return folder
