"""What a sample of the dataset class is: windows, times, augmentation, the cache."""

import pickle

import numpy as np
import pytest
import torch

from tests.clips import damage, encode
from tests.data.folders import add_clip, demo, load, numbers, ramp
from utils.data.captions import swap_left_right
from utils.decoding.video_info import VideoInfo
from utils.demo_data import shapes
from utils.video.frame_windows import window
from video_dataset import TextVideoDataset


def test_sample_has_the_documented_shape_range_and_types(demo_dir):
    dataset = load(demo_dir, frame_size=(32, 24))
    sample = dataset[3]
    assert len(dataset) == 12 and dataset.captions()[3].split() == dataset.items[3][1][0].split()
    assert sample["video"].shape == (3, 8, 32, 24) and sample["video"].dtype == torch.float32
    assert -1 <= sample["video"].min() < -0.5 and sample["video"].max() <= 1
    assert sample["index"] == 3 and sample["path"].endswith("clip_00003.mp4") and isinstance(sample["text"], str)
    assert load(demo_dir, normalize=False)[3]["video"].min() >= 0
    assert load(demo_dir, width=48)[0]["video"].shape == (3, 8, 32, 48)
    with pytest.raises(IndexError):
        dataset[12]
    batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=4)))
    assert batch["video"].shape == (4, 3, 8, 32, 24) and len(batch["text"]) == 4


@pytest.mark.parametrize("level, normalised, plain", [(0, -1.0, 0.0), (255, 1.0, 1.0)])
def test_black_and_white_map_to_the_ends_exactly(tmp_path, level, normalised, plain):
    add_clip(tmp_path, "a", np.full((8, 32, 32, 3), level, np.uint8))
    assert (load(tmp_path)[0]["video"] == normalised).all()
    assert (load(tmp_path, normalize=False)[0]["video"] == plain).all()


def test_random_choices_depend_on_seed_epoch_index_only(tmp_path):
    rng = np.random.default_rng(0)
    for name in "abcd":
        add_clip(tmp_path, name, rng.integers(0, 255, (20, 32, 48, 3), dtype=np.uint8), "a dog runs left")
    dataset, keys = load(tmp_path), [(epoch, i) for epoch in range(3) for i in range(4)]
    once = [dataset[key] for key in keys]
    np.random.seed(5)
    torch.manual_seed(5)
    backwards = [load(tmp_path, cache_bytes=0)[key] for key in reversed(keys)][::-1]
    loaded = [
        [
            s
            for batch in torch.utils.data.DataLoader(dataset, sampler=keys, batch_size=None, num_workers=n)
            for s in [batch]
        ]
        for n in (0, 2)
    ]
    for others in (backwards, *loaded):
        for sample, other in zip(once, others, strict=True):
            assert torch.equal(sample["video"], other["video"]) and sample["text"] == other["text"]
    different = {sample["video"].numpy().tobytes() for sample in once}
    assert len(different) == len(keys)
    assert not torch.equal(load(tmp_path, seed=1)[0]["video"], once[0]["video"])
    assert torch.equal(dataset[0]["video"], dataset[(0, 0)]["video"])


def test_cache_changes_nothing_and_stays_within_its_bytes(demo_dir):
    one = 8 * 32 * 32 * 3
    cached, bare = load(demo_dir, cache_bytes=5 * one), load(demo_dir, cache_bytes=0)
    for epoch in range(2):
        for i in range(12):
            assert torch.equal(cached[(epoch, i)]["video"], bare[(epoch, i)]["video"])
    assert len(cached.cache) == 5 and cached.cached_bytes == 5 * one and not bare.cache
    assert pickle.loads(pickle.dumps(cached)).cache == {}


def test_a_hook_that_writes_into_its_frames_does_not_reach_the_cache(demo_dir):
    class Blackened(TextVideoDataset):
        def augment_video(self, frames):
            frames[:] = 0
            return frames

    dataset = Blackened(demo_dir, 8, 32)
    assert all(dataset[(epoch, 0)]["video"].max() == -1 for epoch in range(6))  # mirrored and not
    assert dataset.cache[0].max() > 100


def test_training_varies_the_window_and_the_crop_and_validation_does_not(tmp_path):
    frames = ramp(20, 32, 64)
    frames[:, :, :32] = 255 - frames[:, :, :32]
    for name in "abc":
        add_clip(tmp_path, name, frames)
    train, val = load(tmp_path, split="train"), load(tmp_path, split="val")
    assert len({train[(epoch, 0)]["video"].numpy().tobytes() for epoch in range(8)}) > 5
    for fixed in (val, load(tmp_path, augment=False)):
        assert all(torch.equal(fixed[(epoch, 0)]["video"], fixed[0]["video"]) for epoch in range(4))
    video = val[0]["video"]
    assert numbers(video[..., 18:]) == list(range(6, 14))  # the middle window
    assert torch.allclose(video[:, :, :, :14].mean(), -video[:, :, :, 18:].mean(), atol=0.05)  # the centre crop


@pytest.mark.parametrize(
    "target_fps, expected",
    [(None, [0, 1, 2, 3]), (8, [0, 1, 2, 3]), (4, [0, 2, 4, 6]), (16, [0, 0, 1, 1]), (3, [0, 3, 5, 8])],
)
def test_frames_are_chosen_by_time(target_fps, expected):
    info = VideoInfo("x", 12, 8.0, 32, 32, "h264", "opencv")
    assert window(info, 4, target_fps, "skip", 0.0).tolist() == expected


def test_variable_frame_rate_is_sampled_by_time():
    times = (0.0, 0.1, 0.2, 0.3, 1.3, 2.3, 3.3)
    info = VideoInfo("x", 7, 2.0, 32, 32, "h264", "opencv", times=times)
    assert window(info, 4, 1.0, "skip", 0.0).tolist() == [0, 4, 5, 6]
    assert window(info, 4, None, "skip", 0.0).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("target_fps", [None, 8, 4, 16])
def test_windows_never_cross_a_gap(target_fps):
    info = VideoInfo("x", 40, 8.0, 32, 32, "h264", "opencv", gaps=(5, 21))
    seen = set()
    for position in np.linspace(0, 0.999, 200):
        chosen = window(info, 6, target_fps, "skip", position)
        assert len(chosen) == 6 and (np.diff(chosen) >= 0).all() and chosen[0] >= 0 and chosen[-1] < 40
        assert all(not chosen[0] < gap <= chosen[-1] for gap in info.gaps)
        seen |= set(chosen.tolist())
    assert 39 in seen and 5 in seen and 20 in seen  # every allowed start is used


def test_exactly_enough_frames_are_enough_and_short_clips_follow_the_policy(tmp_path, capsys):
    add_clip(tmp_path, "exact", ramp(8))
    add_clip(tmp_path, "short", ramp(5))
    skip = load(tmp_path, augment=False)
    assert [numbers(sample["video"]) for sample in skip] == [list(range(8))]
    assert skip.report["skipped"] == {"fewer than 8 frames": ["short.mp4"]}
    assert "short.mp4" in capsys.readouterr().err
    assert numbers(load(tmp_path, augment=False, short_clips="pad")[1]["video"]) == [0, 1, 2, 3, 4, 4, 4, 4]
    assert numbers(load(tmp_path, augment=False, short_clips="loop")[1]["video"]) == [0, 1, 2, 3, 4, 0, 1, 2]
    assert numbers(load(tmp_path, augment=False, short_clips="loop", cache_bytes=0)[1]["video"])[5:] == [0, 1, 2]
    with pytest.raises(ValueError, match="--num_frames .the longest has 8"):
        load(tmp_path, num_frames=9)


def test_augmentation_never_makes_a_caption_false(tmp_path):
    """Follow the object in the pixels: whatever the caption says about left and right must be what happens."""
    folder = demo(tmp_path / "demo", "--num_clips", "24")
    dataset, turned = load(folder), 0
    for epoch in range(6):
        for i in range(len(dataset)):
            sample = dataset[(epoch, i)]
            bright = (sample["video"].amax(dim=0) > -0.3).float()
            x = (bright * torch.arange(32)).sum(dim=(1, 2)) / bright.sum(dim=(1, 2))
            drift = (x[-1] - x[0]).item()
            said = {"left": drift < -3, "right": drift > 3}
            assert all(true for word, true in said.items() if word in sample["text"].split())
            assert ("left" in sample["text"]) + ("right" in sample["text"]) == (abs(drift) > 3)
            turned += sample["text"] != dataset.captions()[i]
    assert turned > 10


def test_every_demo_caption_can_be_mirrored_and_back():
    for plan in shapes.plan_clips(300, 0, hard=True):
        form, rng = shapes.TRAIN_FORMS[plan["form"]], np.random.default_rng(0)
        caption = shapes.describe_clip(plan["attributes"], form, rng)
        assert swap_left_right(swap_left_right(caption)) == caption


def test_hooks_are_called_in_training_only_and_may_use_rng(demo_dir):
    class CustomVideoDataset(TextVideoDataset):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.calls = []

        def augment_text(self, text):
            self.calls.append(text)
            return f"{text}, take {self.rng.integers(1000)}"

        def augment_video(self, frames):
            self.calls.append((frames.shape, frames.dtype))
            return 255 - frames

    dataset = CustomVideoDataset(demo_dir, num_frames=8, frame_size=32)
    sample = dataset[(1, 2)]
    assert sorted(map(type, dataset.calls), key=str) == [str, tuple] and ((8, 32, 32, 3), np.uint8) in dataset.calls
    assert ", take " in sample["text"] and sample["text"] == dataset[(1, 2)]["text"]
    assert sample["video"].mean() > 0.3
    for settings in ({"augment": False}, {"split": "val"}):
        quiet = CustomVideoDataset(demo_dir, num_frames=8, frame_size=32, **settings)
        assert "take" not in quiet[0]["text"] and not quiet.calls


@pytest.mark.parametrize(
    "hook, result", [("augment_video", None), ("augment_video", np.zeros((8, 9, 9, 3), np.uint8)), ("augment_text", 3)]
)
def test_a_wrong_hook_is_named(demo_dir, hook, result):
    dataset = type("Mine", (TextVideoDataset,), {hook: lambda self, _: result})(demo_dir, 8, 32)
    with pytest.raises(ValueError, match=f"Mine.{hook}"):
        dataset[0]


def test_a_counted_clip_that_is_damaged_gives_what_decodes_whatever_is_kept(tmp_path):
    path = add_clip(tmp_path, "a", ramp(24), fps=8)
    encode(path, ramp(24), options={"g": "6", "bf": "0", "x264-params": "scenecut=0"}, fps=8)
    damage(path, 15)  # frames 15 to 17 are lost, the next key frame is frame 18
    always, never = load(tmp_path, num_frames=4), load(tmp_path, num_frames=4, cache_bytes=0)
    always.coin.random = lambda: 0.0
    seen = set()
    for epoch in range(30):
        kept, read = (numbers(dataset[epoch, 0]["video"]) for dataset in (always, never))
        assert kept == read and not set(read) & {15, 16, 17}
        assert read == list(range(read[0], read[0] + 4))
        seen |= set(read)
    assert not always.items[0][0].verified and not always.cache and {14, 23} <= seen
