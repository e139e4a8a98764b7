"""The data and the runs that the tests of this folder share."""

from pathlib import Path

import pytest

from tests.latents.conftest import pipelines  # noqa: F401  (a fixture)
from tests.svd.conftest import dataset, pipeline_dir, run_dir  # noqa: F401  (fixtures)
from tests.text2video.running import train
from utils.demo_data.demo_dataset import write_demo_dataset

KNOWN = ["--tasks", "text=1", "first_frame=1", "inpainting=1"]
ALL = [*KNOWN, "--maps", "depth", "--vectors", "--audio", "--condition_dropout", "0.3"]


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "demo_video_data"
    write_demo_dataset(folder, num_clips=12, num_frames=6, frame_size=32, conditions=True)
    return folder


@pytest.fixture(scope="session")
def known_run(data, tmp_path_factory) -> Path:
    """A finished run of six steps with every condition."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(data, folder, *ALL, "--max_train_steps", "6", "--checkpoint_every", "3")
    return folder


@pytest.fixture(scope="session")
def plain_run(data, tmp_path_factory) -> Path:
    """A finished run of three steps that knows of no condition, the weights of its last step."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    train(data, folder, "--max_train_steps", "3", "--ema_decay", "0")
    return folder
