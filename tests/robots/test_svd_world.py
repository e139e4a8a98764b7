"""Stable Video Diffusion as a model of the world: it takes the same first frames and actions."""

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from tests.lerobot.datasets import write_lerobot
from tests.robots.test_generate_episodes import columns, generate
from tests.svd.conftest import pipeline_dir  # noqa: F401  (a fixture)
from tests.svd.running import train
from utils.cli import UserError
from utils.robots.svd_world import SvdWorld, open_world


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_lerobot(tmp_path_factory.mktemp("real") / "data")


@pytest.fixture(scope="module")
def run(pipeline_dir, dataset, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("svd") / "run"
    flags = ["--cameras", "front", "--vectors", "action", "--max_train_steps", 3, "--ema_decay", 0]
    train(pipeline_dir, dataset, folder, *flags)
    tensors = load_file(folder / "vectors.safetensors")  # three steps teach little: make it plain to see
    save_file({name: tensor * 300 for name, tensor in tensors.items()}, folder / "vectors.safetensors")
    return folder


def test_it_starts_at_the_frame_and_listens_to_actions(run):
    world = open_world(run, num_inference_steps=2)
    assert isinstance(world, SvdWorld) and (world.num_frames, world.names) == (4, ("dx", "dy"))
    assert (world.target_fps, world.cameras, world.resize_mode) == (10, ["front"], "crop")
    first = np.random.default_rng(0).integers(0, 255, (1, 64, 64, 3), dtype=np.uint8)
    actions = np.random.default_rng(1).uniform(-1, 1, (1, 9, 2)).astype(np.float32)
    videos = {
        "own": world.follow(["push"], first, actions, [0])[0],
        "again": world.follow(["push"], first, actions, [0])[0],
        "others": world.follow(["push"], first, -actions, [0])[0],
        "none": world.follow(["push"], first, actions, [0], listens=False)[0],
    }
    assert all(video.shape == (9, 64, 64, 3) and np.array_equal(video[0], first[0]) for video in videos.values())
    assert np.array_equal(videos["own"], videos["again"])
    for other in ("others", "none"):
        assert np.abs(videos["own"][1:].astype(int) - videos[other][1:]).mean() > 0.5
    short = world.follow(["push"], first, actions[:, :4], [0])[0]
    assert np.array_equal(short, videos["own"][:4])  # longer ones go on from there
    with pytest.raises(UserError, match="--num_frames: got 3; the model draws 4 at least"):
        world.checked_length(3)


def test_its_episodes_are_written_like_others(run, dataset, tmp_path):
    found = generate(run, dataset, tmp_path / "made", "--num_episodes", 2, "--num_frames", 6)
    assert [each.length for each in found.episodes.values()] == [6, 6]
    assert columns(found, "generated.checkpoint")[0][0].startswith("run, ")


def test_a_pipeline_without_actions_is_refused(run, pipeline_dir, tmp_path):  # noqa: F811
    with pytest.raises(UserError, match="knows no actions; train_svd.py --vectors action"):
        open_world(pipeline_dir)
    other = shutil.copytree(run, tmp_path / "run")
    about = json.loads((other / "svd.json").read_text())
    del about["conditions"]
    (other / "svd.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="this model was not trained with vectors per frame"):
        open_world(other)
