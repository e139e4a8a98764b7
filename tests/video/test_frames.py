"""Sizes of frames, and the way to bytes."""

import numpy as np
import pytest
import torch

from utils.video.frames import resize_frames, to_uint8


def test_resize_modes_keep_what_they_promise():
    white = np.full((2, 40, 80, 3), 255, np.uint8)
    assert (resize_frames(white, 32, 32, "crop") == 255).all()
    assert (resize_frames(white, 32, 32, "stretch") == 255).all()
    padded = resize_frames(white, 32, 32, "pad")
    assert (padded[:, 8:24] == 255).all() and not padded[:, :8].any() and not padded[:, 24:].any()
    for size in ((1, 1), (7, 300), (300, 7), (40, 80)):
        for mode in ("crop", "pad", "stretch"):
            assert resize_frames(white, *size, mode).shape == (2, *size, 3)
    with pytest.raises(ValueError, match="mode"):
        resize_frames(white, 8, 8, "fit")


def test_the_anchor_chooses_what_the_crop_keeps():
    clip = np.zeros((1, 10, 30, 3), np.uint8)
    clip[:, :, :10, 0], clip[:, :, 10:20, 1], clip[:, :, 20:, 2] = 255, 255, 255
    for channel, x in enumerate((0.0, 0.5, 1.0)):
        kept = resize_frames(clip, 10, 10, anchor=(0.5, x))
        assert kept.sum((0, 1, 2)).argmax() == channel and kept.sum() == 255 * 100


def test_shrinking_averages_instead_of_picking():
    noise = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    means = noise.reshape(1, 8, 8, 8, 8, 3).mean((2, 4))
    assert np.abs(resize_frames(noise, 8, 8) - means).max() <= 1


def test_to_uint8_rounds_and_clips():
    values = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0]).view(1, 5, 1, 1).expand(3, 5, 2, 4)
    assert to_uint8(values)[:, 0, 0, 0].tolist() == [0, 0, 128, 255, 255]
    assert to_uint8(values.to(torch.bfloat16)).shape == (5, 2, 4, 3)
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 1, 256).repeat(3, 0)
    assert np.array_equal(to_uint8(every / 127.5 - 1)[0, 0, :, 0], every[0, 0, 0])
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(values / 0 * 0)
