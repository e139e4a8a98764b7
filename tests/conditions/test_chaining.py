"""Videos longer than trained, piece by piece: pieces meet, colours are held, drift is measured."""

import argparse

import numpy as np
import pytest
import torch

from tests.conditions.test_training import draw
from utils.cli import UserError
from utils.demo_data import shapes
from utils.drawing import chaining
from utils.drawing.chaining import colours_held, drift_of, pieces_of


def test_pieces_cover_the_video_and_share_what_they_should():
    assert pieces_of(10, 4, 1) == [slice(0, 4), slice(3, 7), slice(6, 10)]
    assert pieces_of(9, 4, 2) == [slice(0, 4), slice(2, 6), slice(4, 8), slice(5, 9)]


def test_colours_are_held_by_what_two_pieces_share():
    torch.manual_seed(0)
    truth = torch.rand(2, 3, 4, 8, 8) * 0.5
    faded = truth * 0.9 + 0.05
    assert torch.allclose(colours_held(faded, truth[:, :, :2]), truth, atol=0.02)
    assert torch.allclose(colours_held(truth, truth[:, :, :2]), truth, atol=1e-5)


def test_each_piece_gives_what_it_does_not_share_and_is_given_the_rest(monkeypatch):
    monkeypatch.setattr(chaining, "colours_held", lambda drawn, before: drawn)
    seen = []

    def draw(num_frames: int, conditions: dict) -> torch.Tensor:
        seen.append(conditions)
        values = 10.0 * len(seen) + torch.arange(num_frames)
        return values.reshape(1, 1, -1, 1, 1).expand(1, 3, -1, 2, 2)

    model = argparse.Namespace(autoencoder=None)
    given = {"depth": torch.arange(9.0).reshape(1, 1, 9, 1, 1).expand(1, 1, 9, 2, 2)}
    found = torch.cat([*chaining.draw_chain(draw, model, pieces_of(9, 4, 2), given, torch.device("cpu"))], dim=2)
    assert found[0, 0, :, 0, 0].tolist() == [10, 11, 12, 13, 22, 23, 32, 33, 43]
    assert [each["depth"][0, 0, :, 0, 0].tolist() for each in seen] == [
        [0, 1, 2, 3],
        [2, 3, 4, 5],
        [4, 5, 6, 7],
        [5, 6, 7, 8],
    ]
    known = [each["known"][0, :, :, 0, 0] for each in seen[1:]]
    assert [each[0].tolist() for each in known] == [[12, 13, 13, 13], [22, 23, 23, 23], [23, 32, 33, 33]]
    assert [each[3].tolist() for each in known] == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]
    assert "known" not in seen[0]


def test_drift_tells_colour_sharpness_and_the_thing():
    frames = shapes.make_clip(shapes.plan_clips(1, 0)[0], 0, 0, 12, 64, False)[0]
    video = torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 127.5 - 1
    pieces = pieces_of(12, 6, 0)
    same = drift_of(video, pieces)
    assert same[1]["same_thing"] is True and same[1]["colour"] < 3 and same[1]["sharpness"] == pytest.approx(1, abs=0.1)
    other = video.clone()
    other[:, 6:] = other[[2, 0, 1], 6:] + 0.2
    other[:, 6:] = torch.nn.functional.avg_pool2d(other[:, 6:], 15, 1, 7)
    changed = drift_of(other.clamp(-1, 1), pieces)
    assert changed[1]["same_thing"] is False and changed[1]["colour"] > 10 and changed[1]["sharpness"] < 0.8
    assert changed[0] == {"frames": [0, 6], "colour": 0.0, "sharpness": 1.0, "same_thing": True}


def test_a_longer_video_begins_as_the_shorter_one_and_notes_its_drift(known_run, data, tmp_path):
    files = ["--depth", data / "depth" / "clip_00001.mp4"]
    short, _ = draw(known_run, tmp_path / "short", "--num_frames", 4)
    long, sidecar = draw(known_run, tmp_path / "long", "--num_frames", 9, "--chain_overlap", 2)
    assert len(long) == 9 and np.array_equal(long[:4], short)
    assert [each["frames"] for each in sidecar["drift"]] == [[0, 4], [2, 6], [4, 8], [5, 9]]
    with_depth, _ = draw(known_run, tmp_path / "depth", "--num_frames", 6, "--chain_overlap", 2, *files)
    assert len(with_depth) == 6


def test_chains_that_cannot_be_are_one_line(known_run, plain_run, tmp_path):
    with pytest.raises(UserError, match="--chain_overlap: got 4, must be less than the 4 frames of a piece"):
        draw(known_run, tmp_path / "a", "--num_frames", 9, "--chain_overlap", 4)
    with pytest.raises(UserError, match="give one of them"):
        draw(known_run, tmp_path / "b", "--num_frames", 9, "--chain_overlap", 2, "--window_frames", 4)
    with pytest.raises(UserError, match="not trained with known frames .*; --window_frames 4 draws longer videos"):
        draw(plain_run, tmp_path / "c", "--num_frames", 9, "--chain_overlap", 2)
