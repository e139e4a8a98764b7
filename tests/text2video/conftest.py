"""The data and the run that the tests of this folder share."""

from pathlib import Path

import pytest

from tests.models.test_text_encoder import clip_folder  # noqa: F401  (a fixture)
from tests.text2video.running import train
from utils.demo_data.demo_dataset import write_demo_dataset


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "demo_video_data"
    write_demo_dataset(folder, num_clips=12, num_frames=6, frame_size=32)
    return folder


@pytest.fixture(scope="session")
def run_dir(data, tmp_path_factory) -> Path:
    """A finished run of six steps."""
    run_dir = tmp_path_factory.mktemp("runs") / "text2video_test"
    train(
        data,
        run_dir,
        "--max_train_steps",
        "6",
        "--validate_every",
        "3",
        "--sample_every",
        "6",
        "--checkpoint_every",
        "2",
        "--num_timesteps",
        "1000",
    )
    return run_dir
