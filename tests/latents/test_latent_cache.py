"""Cached latents: the same as encoded now, written by several processes, found again, told from stale ones."""

import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import models.autoencoder
from tests.text2video.running import losses, train
from tests.tiny_autoencoders import tiny_autoencoder
from utils.cli import UserError
from utils.data.errors import DataError
from utils.data.readable import UnreadableClip
from utils.demo_data.demo_dataset import write_demo_dataset
from utils.drawing import training_samples
from utils.latents import cache as cache_module
from utils.latents.cache import LatentCache, ShardWriter
from utils.latents.latent_clips import LatentClips, as_clips
from utils.pretrained.autoencoder import find_vae, load_autoencoder
from utils.runs.checkpoint import load_checkpoint
from video_dataset import TextVideoDataset


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "demo"
    write_demo_dataset(folder, num_clips=10, num_frames=8, frame_size=48)
    return folder


@pytest.fixture(scope="module")
def vae(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vae") / "vae"
    tiny_autoencoder("PatchAutoencoder").save_pretrained(folder)
    return folder


def clips(data, **settings) -> TextVideoDataset:
    return TextVideoDataset(data, 4, 32, **{"split": "train", "max_bad_fraction": 0.2} | settings)


def filled(data, folder, vae, windows=3, fresh_share=0.0, **settings) -> LatentClips:
    found = LatentClips(clips(data, **settings), LatentCache(folder), find_vae(str(vae)).digest, windows, fresh_share)
    found.fill(load_autoencoder(str(vae)), 0, 1, False)
    return found


# Samples --------------------------------------------------------------------------------------------------------------


def test_latents_from_the_cache_are_those_of_the_samples(data, vae, tmp_path):
    cached, plain, autoencoder = filled(data, tmp_path, vae), clips(data), load_autoencoder(str(vae))
    assert not cached.missing() and len(cached.cache.places) == 3 * len(plain)
    for epoch in range(3):
        for index in range(len(plain)):
            expected, found = plain[(epoch, index)], cached[(epoch, index)]
            assert torch.equal(found["latents"], autoencoder.encode_raw(expected["video"][None])[0])
            assert (found["text"], found["path"], found["index"]) == (expected["text"], expected["path"], index)
    assert torch.equal(cached[(4, 2)]["latents"], cached[(1, 2)]["latents"])  # epochs take turns
    assert not torch.equal(cached[(0, 2)]["latents"], cached[(1, 2)]["latents"])


def test_captions_follow_the_flip(data, vae, tmp_path):
    cached, plain = filled(data, tmp_path, vae, windows=8), clips(data)
    texts = [
        [each[(epoch, index)]["text"] for epoch in range(8) for index in range(len(plain))] for each in (cached, plain)
    ]
    assert texts[0] == texts[1] and len(set(texts[0])) > len(plain)


def test_without_augmenting_a_clip_is_encoded_once(data, vae, tmp_path):
    for settings in ({"augment": False}, {"split": "val"}):
        cached = filled(data, tmp_path / str(settings), vae, fresh_share=0.5, **settings)
        assert len(cached.cache.places) == len(cached)
        assert all("latents" in cached[(epoch, 0)] for epoch in range(20))


def test_a_share_of_the_samples_is_fresh_the_same_in_every_run(data, vae, tmp_path):
    cached, plain = filled(data, tmp_path, vae, fresh_share=0.3), clips(data)
    keys = [(epoch, index) for epoch in range(12) for index in range(len(cached))]
    fresh = [key for key in keys if "video" in cached[key]]
    assert abs(len(fresh) / len(keys) - 0.3) < 0.12
    again = filled(data, tmp_path, vae, fresh_share=0.3)
    assert fresh == [key for key in keys if "video" in again[key]]
    assert torch.equal(cached[fresh[-1]]["video"], plain[fresh[-1]]["video"])  # of its own epoch

    autoencoder = load_autoencoder(str(vae))
    autoencoder.measure(cached.some(64))
    mixed = [fresh[0], (0, 1), fresh[1], (1, 2)]
    batch = cached.collate([cached[key] for key in mixed])
    assert batch["fresh"].tolist() == [n for n, key in enumerate(mixed) if key in fresh] and len(batch["text"]) == 4
    for found, key in zip(as_clips(batch, autoencoder, torch.device("cpu")), mixed, strict=True):
        epoch = key[0] if key in fresh else key[0] % 3
        expected = autoencoder.encode(plain[(epoch, key[1])]["video"][None])[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("change", ["file", "size", "encoder", "window"])
def test_what_has_changed_is_encoded_again_and_nothing_else(data, vae, tmp_path, change):
    shutil.copytree(data, tmp_path / "data")
    before = filled(tmp_path / "data", tmp_path / "cache", vae)
    known = dict(before.cache.places)
    settings, encoder, expected = {}, vae, len(known)
    if change == "file":
        video = before.path(0)
        shutil.copy(before.path(1), video)
        expected = 3
    elif change == "size":
        settings["frame_size"] = 40
    elif change == "encoder":
        encoder = tmp_path / "other"
        tiny_autoencoder("PatchAutoencoder", seed=1).save_pretrained(encoder)
    else:
        settings["seed"] = 1
    dataset = TextVideoDataset(
        tmp_path / "data", 4, **{"frame_size": 32, "split": "train", "max_bad_fraction": 0.2} | settings
    )
    after = LatentClips(dataset, LatentCache(tmp_path / "cache"), find_vae(str(encoder)).digest, 3)
    missing = len(after.missing())
    assert missing == expected if change != "window" else 0.5 * expected < missing <= expected
    again = filled(tmp_path / "data", tmp_path / "cache", vae)
    assert change == "file" or again.cache.places == known


def test_a_picture_that_is_replaced_in_a_folder_of_frames_makes_its_latents_stale(vae, tmp_path):
    for clip in ("a", "b", "c"):
        (tmp_path / "data" / "videos" / clip).mkdir(parents=True)
        (tmp_path / "data" / "captions").mkdir(exist_ok=True)
        (tmp_path / "data" / "captions" / f"{clip}.txt").write_text("a colour")
        for n in range(4):
            Image.new("RGB", (32, 32), (60 * n, 9, 9)).save(tmp_path / "data" / "videos" / clip / f"{n}.png")
    cached = filled(tmp_path / "data", tmp_path / "cache", vae, augment=False)
    frame = cached.path(0) / "2.png"
    folder_time = cached.path(0).stat().st_mtime_ns
    frame.write_bytes(frame.read_bytes())
    os.utime(frame, ns=(1, 1))
    assert cached.path(0).stat().st_mtime_ns == folder_time  # the folder itself has not changed
    assert cached.missing() == [(0, 0)]


def test_a_clip_that_changes_during_a_run_is_noticed_and_another_takes_its_place(data, vae, tmp_path, capsys):
    shutil.copytree(data, tmp_path / "data")
    cached = filled(tmp_path / "data", tmp_path / "cache", vae)
    shutil.copy(cached.path(1), cached.path(0))
    with pytest.raises(UnreadableClip, match="it has changed since its latents were cached"):
        cached.read((0, 0))
    assert "latents" in cached[(0, 0)] and "another clip takes its place" in capsys.readouterr().err
    cached.path(2).unlink()
    assert "latents" in cached[(0, 2)]


# Shards ---------------------------------------------------------------------------------------------------------------


def fill_share(data, folder, vae, rank) -> None:
    torch.set_num_threads(1)
    found = LatentClips(clips(data), LatentCache(folder), find_vae(str(vae)).digest, 3)
    found.fill(load_autoencoder(str(vae)), rank, 2, False)


def test_several_processes_fill_one_cache(data, vae, tmp_path):
    worker = multiprocessing.get_context("spawn").Process(target=fill_share, args=(data, tmp_path / "both", vae, 1))
    worker.start()
    fill_share(data, tmp_path / "both", vae, 0)
    worker.join(120)
    assert worker.exitcode == 0
    both, alone = LatentCache(tmp_path / "both"), filled(data, tmp_path / "alone", vae).cache
    assert both.places.keys() == alone.places.keys() and len(set(both.places.values())) >= 2
    assert all(torch.equal(both.load(name), alone.load(name)) for name in alone.places)


def test_what_a_stopped_process_had_written_is_not_encoded_again(data, vae, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "SHARD_BYTES", 1)  # a shard for each
    read, count = TextVideoDataset.read, 0

    def stops(self, key):
        nonlocal count
        count += 1
        if count == 6:
            raise KeyboardInterrupt
        return read(self, key)

    monkeypatch.setattr(TextVideoDataset, "read", stops)
    with pytest.raises(KeyboardInterrupt):
        filled(data, tmp_path, vae)
    monkeypatch.setattr(TextVideoDataset, "read", read)
    assert len(LatentCache(tmp_path).places) == 5
    found = LatentClips(clips(data), LatentCache(tmp_path), find_vae(str(vae)).digest, 3)
    assert len(found.missing()) == 3 * len(found) - 5


def test_a_damaged_shard_is_named_and_left_out(data, vae, tmp_path, capsys):
    cached = filled(data, tmp_path, vae)
    (shard,) = tmp_path.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-100])
    assert not LatentCache(tmp_path).places and "is damaged" in capsys.readouterr().err
    assert not filled(data, tmp_path, vae).missing() and cached


def test_half_a_shard_is_never_seen(tmp_path, monkeypatch):
    cache = LatentCache(tmp_path)

    def fails(entries, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module, "save_file", fails)
    writer = ShardWriter(cache, 4000)
    writer.add(["a"], [torch.zeros(10)])
    with pytest.raises(UserError, match="disk full writing .*; make room, or give a --latent_cache on another disk"):
        writer.close()
    assert not list(tmp_path.iterdir()) and "a" not in cache


# Training -------------------------------------------------------------------------------------------------------------

FLAGS = ("--num_frames", "4", "--frame_size", "32", "--max_train_steps", "4", "--checkpoint_every", "2")


def test_training_from_the_cache_equals_training_without(data, vae, tmp_path):
    """To the bit: where nothing is augmented all samples are in it."""
    more = (*FLAGS, "--no_augment", "--vae", str(vae))
    train(data, tmp_path / "plain", *more)
    for name in ("cached", "again"):
        train(data, tmp_path / name, *more, "--latent_cache", str(tmp_path / "cache"))
    assert losses(tmp_path / "plain") == losses(tmp_path / "cached") == losses(tmp_path / "again")
    tensors = [load_checkpoint(tmp_path / name / "checkpoint-00000004")[0] for name in ("plain", "again")]
    for group in tensors[0]:
        assert all(torch.equal(tensors[0][group][name], tensors[1][group][name]) for name in tensors[0][group])


def test_training_from_a_full_cache_loads_no_autoencoder(data, vae, tmp_path, monkeypatch):
    more = (*FLAGS, "--vae", str(vae), "--latent_cache", str(tmp_path / "cache"), "--cached_windows", "2")
    train(data, tmp_path / "first", *more)
    asked = []
    weights = models.autoencoder.VideoAutoencoder._weights

    def noted(self):
        asked.append(self)
        weights(self)

    monkeypatch.setattr(models.autoencoder.VideoAutoencoder, "_weights", noted)
    monkeypatch.setattr(training_samples, "draw_samples", lambda *_: None)
    train(data, tmp_path / "second", *more)
    assert not asked and losses(tmp_path / "first") == losses(tmp_path / "second")


def test_a_resumed_run_from_the_cache_equals_an_uninterrupted_one(data, vae, tmp_path):
    more = (*FLAGS, "--vae", str(vae), "--latent_cache", str(tmp_path / "cache"), "--fresh_share", "0.4")
    more += ("--batch_size", "3", "--num_workers", "2")
    train(data, tmp_path / "whole", *more)
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoint-00000004")
    train(data, tmp_path / "parts", *more, "--resume", "latest")
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts") and len(losses(tmp_path / "whole")) == 4


def test_own_frames_and_pixels_have_no_cache(data, vae, tmp_path, capsys):
    class Own(TextVideoDataset):
        def augment_video(self, frames: np.ndarray) -> np.ndarray:
            return frames

    with pytest.raises(DataError, match="latent_cache: augment_video makes other frames each time"):
        LatentClips(Own(data, 4, 32), LatentCache(tmp_path), "digest")
    with pytest.raises(SystemExit):
        train(data, tmp_path / "run", "--latent_cache", str(tmp_path / "cache"))
    assert "--latent_cache: pixels have no latents; give --vae too" in capsys.readouterr().err
