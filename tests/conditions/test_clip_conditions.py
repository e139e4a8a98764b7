"""Conditions of training samples: cut, mirrored and timed as their clips are, absent where there are none."""

import numpy as np
import pytest
import torch

from utils.conditions.clip_conditions import ClipConditions
from utils.conditions.known_clips import KnownClips
from utils.data.errors import DataError
from utils.demo_data.demo_dataset import write_demo_dataset
from utils.video.encode import write_video
from utils.video.frames import to_uint8
from video_dataset import TextVideoDataset


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "data"
    write_demo_dataset(folder, num_clips=6, num_frames=8, frame_size=32, fps=8, conditions=True)
    return folder


def known(folder, maps=("depth",), vectors=("vectors",), audio=True, **settings) -> KnownClips:
    dataset = TextVideoDataset(folder, **{"num_frames": 4, "frame_size": 32, "augment": False} | settings)
    dataset.may_mirror = not vectors
    infos = [info for info, _ in dataset.items]
    return KnownClips(dataset, ClipConditions(folder, infos, maps, vectors, audio))


def test_depth_is_where_the_object_is_and_motion_says_so(demo):
    samples = known(demo, target_fps=4.0)
    for n in range(len(samples)):
        sample = samples[n]
        assert sample["present"] == {"depth": 1.0, "vectors": 1.0, "audio": 1.0}
        depth, motion = sample["conditions"]["depth"], sample["conditions"]["vectors"]
        assert (
            depth.shape == (1, 4, 32, 32) and motion.shape == (4, 4) and sample["conditions"]["audio"].shape == (4, 32)
        )
        near = (depth[0] > 0).numpy()
        bright = to_uint8(sample["video"]).max(axis=-1) > 100
        assert (near == bright).mean() > 0.95
        y, x = np.mgrid[:32, :32] + 0.5
        for t in range(4):
            centre = np.array([x[near[t]].mean(), y[near[t]].mean()]) / 32
            assert np.abs(centre - motion[t, :2].numpy()).max() < 0.02


def test_the_sound_is_the_higher_the_higher_the_object_is(demo):
    samples = known(demo)
    heights = torch.stack([1 - samples[n]["conditions"]["vectors"][:, 1] for n in range(6)]).flatten()
    bands = torch.stack([samples[n]["conditions"]["audio"] for n in range(6)]).flatten(0, 1)
    loudest = bands.argmax(dim=1).double()
    assert torch.corrcoef(torch.stack([heights.double(), loudest]))[0, 1] > 0.9


def test_maps_are_cropped_and_mirrored_as_the_frames_are(tmp_path):
    """Maps that are the clip itself stay equal to it, whatever the augmentation does."""
    rng = np.random.default_rng(0)
    (tmp_path / "videos").mkdir()
    (tmp_path / "captions").mkdir()
    (tmp_path / "depth").mkdir()
    coarse = rng.integers(0, 255, (10, 6, 9, 1), dtype=np.uint8).repeat(3, axis=-1)
    frames = coarse.repeat(8, axis=1).repeat(8, axis=2)
    for folder in ("videos", "depth"):
        write_video(tmp_path / folder / "a.mp4", frames, 8)
    (tmp_path / "captions" / "a.txt").write_text("noise going left")
    settings = {"vectors": (), "audio": False, "augment": True, "num_frames": 4}
    mirrored = set()
    for mode, size in (("crop", (48, 40)), ("crop", (24, 24)), ("pad", (48, 48)), ("stretch", (40, 40))):
        samples = known(tmp_path, **settings, resize_mode=mode, frame_size=size)
        for epoch in range(6):
            sample = samples[epoch, 0]
            difference = (sample["conditions"]["depth"][0] - sample["video"].mean(dim=0)).abs().mean()
            assert difference < 0.06, (mode, epoch)
            mirrored.add("right" in sample["text"])
    assert mirrored == {True, False}


def test_vectors_forbid_mirroring_and_flow_is_turned(demo, tmp_path):
    samples = known(demo, maps=(), audio=False, augment=True)
    assert not any(samples.clips.choose(epoch, 0)[2] for epoch in range(20))
    samples.clips.may_mirror = True
    with pytest.raises(ValueError, match="may_mirror"):
        KnownClips(samples.clips, samples.conditions)
    (demo / "flow").mkdir(exist_ok=True)
    flow = np.zeros((8, 32, 32, 2), np.float32)
    flow[..., 0], flow[..., 1] = 0.5, 0.25
    np.save(demo / "flow" / "clip_00000.npy", flow)
    samples = known(demo, maps=("flow",), vectors=(), audio=False, augment=True)
    seen = set()
    for epoch in range(12):
        dx, dy = samples.read_conditions(epoch, 0)[0]["flow"].mean(dim=(1, 2, 3)).tolist()
        assert dy == 0.25 and dx == (-0.5 if samples.clips.choose(epoch, 0)[2] else 0.5)
        seen.add(dx)
    assert seen == {-0.5, 0.5}


def test_what_a_clip_lacks_is_absent_and_named(demo, tmp_path):
    import shutil

    folder = tmp_path / "data"
    shutil.copytree(demo, folder)
    (folder / "depth" / "clip_00001.mp4").unlink()
    (folder / "vectors" / "clip_00002.csv").write_text("time,x,y,dx,dy\n0,1,2,3,4\n")
    (folder / "vectors" / "clip_00003.csv").write_text("time,other\n0,1\n2,3\n")
    samples = known(folder)
    assert samples[1]["present"] == {"depth": 0.0, "vectors": 1.0, "audio": 1.0}
    assert samples[1]["conditions"]["depth"].abs().max() == 0 and samples[1]["conditions"]["depth"].shape == (
        1,
        4,
        32,
        32,
    )
    assert samples[2]["present"]["vectors"] == samples[3]["present"]["vectors"] == 0.0
    infos = [info for info, _ in samples.clips.items]
    found = samples.conditions.missing(infos)
    assert found["depth: no file"] == ["clip_00001.mp4"]
    reasons = {name: reason for reason, names in found.items() for name in names}
    assert "its clip lasts 1.00 s" in reasons["clip_00002.mp4"]
    assert "has other, other clips' have x, y, dx, dy" in reasons["clip_00003.mp4"]


def test_folders_that_are_not_there_or_belong_to_nobody_are_refused(demo, tmp_path):
    with pytest.raises(DataError, match="--maps: there is no folder"):
        known(demo, maps=("edges",))
    (demo / "stray").mkdir(exist_ok=True)
    with pytest.raises(DataError, match="--maps: no usable file in .*stray"):
        known(demo, maps=("stray",))
    silent = tmp_path / "silent"
    write_demo_dataset(silent, num_clips=2, num_frames=6, frame_size=32)
    with pytest.raises(DataError, match="--audio: no clip has sound"):
        known(silent, maps=(), vectors=())


def test_statistics_are_those_of_the_present_vectors(demo):
    samples = known(demo, audio=False)
    about = samples.measured()["vectors"]
    rows = torch.cat([samples[n]["conditions"]["vectors"] for n in range(6)])
    assert about["names"] == ["x", "y", "dx", "dy"]
    assert np.allclose(about["mean"], rows.mean(dim=0), atol=1e-5)
    assert np.allclose(about["std"], rows.std(dim=0, unbiased=False), atol=1e-5)
