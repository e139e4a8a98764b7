"""The pipeline, frames, run and picture that the tests of this folder share."""

import numpy as np
import pytest
from PIL import Image

import prepare_dataset
from tests.svd.running import train
from tests.tiny_svd import tiny_svd_pipeline
from utils.demo_data.demo_dataset import write_demo_dataset


@pytest.fixture(scope="session")
def pipeline_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("svd") / "tiny"
    tiny_svd_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    write_demo_dataset(folder / "clips", num_clips=6, num_frames=7, frame_size=64)
    argv = ["--video_dir", folder / "clips" / "videos", "--output_dir", folder / "dataset_root", "--num_workers", 0]
    prepare_dataset.main(prepare_dataset.parse_args([str(word) for word in argv]))
    return folder / "dataset_root"


@pytest.fixture(scope="session")
def run_dir(pipeline_dir, dataset, tmp_path_factory):
    """A finished run of four steps without a moving average."""
    run_dir = tmp_path_factory.mktemp("run") / "outputs"
    train(pipeline_dir, dataset, run_dir, "--max_train_steps", 4, "--ema_decay", 0, "--checkpoint_every", 2)
    return run_dir


@pytest.fixture(scope="session")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(path)
    return path
