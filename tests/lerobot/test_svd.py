"""Stable Video Diffusion is fine-tuned on a folder of LeRobot's as it lies."""

import json

import numpy as np
import pytest
import torch

from tests.lerobot.datasets import CAMERAS, FPS, LENGTHS, SIZES, frames_of, numbers_of, write_lerobot
from tests.svd.running import FRAMES, losses, train
from utils.cli import UserError
from utils.frame_folders.frame_clips import FrameClips, clip_digests, find_frame_folders, to_tensor
from utils.video.frames import resize_frames


@pytest.fixture(scope="module", params=["v3.0", "v2.1"])
def folder(request, tmp_path_factory):
    return write_lerobot(tmp_path_factory.mktemp("robots") / "data", request.param)


def test_windows_are_the_episodes_frames_and_rates_at_any_place_and_stride(folder):
    clips, skipped = find_frame_folders(folder, 4, 3, 7.0, None, cameras=["front"])
    assert [clip.frames for clip in clips] == [12, 20] and clips[0].fps == FPS
    assert skipped == {"fewer than 10 frames": ["episode_000002"]}
    assert len({clip.motion_bucket_id for clip in clips}) == 2
    samples, size = FrameClips(clips, 4, 64, 64, frame_stride=3, seed=1), SIZES[CAMERAS[0]]
    for index in range(2):
        frames = resize_frames(frames_of(index, CAMERAS[0]), 64, 64, "crop")
        item, starts = samples[index], len(frames) - 9
        known = to_tensor(frames[starts // 2 :: 3][:4])
        assert (item["frames"] - known).abs().mean() < 0.03 and item["fps"] == pytest.approx(FPS / 3)
        drawn = {samples[(epoch, index)]["frames"].sum().item() for epoch in range(120)}
        assert len(drawn) == starts
    assert clips[0].own_size() == size


def test_cameras_side_by_side_and_vectors_of_the_rows(folder, pipeline_dir, tmp_path):
    flags = ["--cameras", "front", "wrist", "--vectors", "action", "--max_train_steps", 2]
    train(pipeline_dir, folder, tmp_path / "run", *flags)
    about = json.loads((tmp_path / "run" / "svd.json").read_text())
    every = np.concatenate([numbers_of(episode)["action"] for episode in range(len(LENGTHS))])
    action = about["conditions"]["vectors"]["action"]
    assert action["names"] == ["dx", "dy"] and about["fps"] == FPS
    assert action["mean"] == pytest.approx(every.mean(0).tolist(), abs=1e-5)
    train(pipeline_dir, folder, tmp_path / "fresh", *flags, "--no_cache")
    assert losses(tmp_path / "fresh") == pytest.approx(losses(tmp_path / "run"), rel=1e-3)


def test_a_cache_is_of_an_episode_of_a_camera(folder, tmp_path):
    from utils.frame_folders.latent_cache import LatentCache

    module = torch.nn.Linear(1, 1)
    cache = LatentCache(tmp_path, 64, 64, "crop", module, module)
    chosen = ["front"], ["wrist"], ["front", "wrist"], ["wrist", "front"]
    clips = [clip for cameras in chosen for clip in find_frame_folders(folder, 4, 1, 7.0, None, cameras=cameras)[0]]
    assert len({cache._path(clip) for clip in clips}) == len(clips) == 12
    digests = [clip_digests(find_frame_folders(folder, 4, 1, 7.0, None, cameras=cameras)[0]) for cameras in chosen]
    assert len({json.dumps(digest) for digest in digests}) == 4


def test_what_is_not_clear_or_too_short_is_said_in_a_line(folder, dataset):
    with pytest.raises(UserError, match=r"^--dataset_dir: .*--cameras says which"):
        find_frame_folders(folder, 4, 1, 7.0, None)
    with pytest.raises(UserError, match=r"--cameras: there is no top; it has .*front, .*wrist"):
        find_frame_folders(folder, 4, 1, 7.0, None, cameras=["top"])
    with pytest.raises(UserError, match="the longest has 20"):
        find_frame_folders(folder, 25, 1, 7.0, None, cameras=["front"])
    with pytest.raises(UserError, match="--cameras: is for LeRobot datasets"):
        find_frame_folders(dataset, FRAMES, 1, 7.0, None, cameras=["front"])
