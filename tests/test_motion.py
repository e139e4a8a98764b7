import numpy as np
import pytest

from tests.clips import panning_clip
from utils.motion import STATIC_SCORE, motion_score, small_grey, to_buckets


@pytest.mark.parametrize("speed", [0.02, 0.05, 0.1, 0.2, 0.4, 0.8])
def test_the_score_of_a_pan_is_its_speed(speed):
    assert motion_score(panning_clip(speed), 10) == pytest.approx(speed, rel=0.1)


def test_the_score_depends_on_neither_resolution_nor_frame_rate():
    score = motion_score(panning_clip(0.1), 10)
    for height, width in ((48, 64), (192, 256), (32, 43)):
        assert motion_score(panning_clip(0.1, height=height, width=width), 10) == pytest.approx(score, rel=0.1)
    for fps in (4, 6, 25):
        clip = panning_clip(0.1, num_frames=2 * fps + 1, fps=fps)
        assert motion_score(clip, fps) == pytest.approx(score, rel=0.1)


def test_a_clip_shorter_than_a_pair_is_still_measured():
    assert motion_score(panning_clip(0.1, num_frames=3, fps=30), 30) == pytest.approx(0.1, rel=0.2)
    assert motion_score(panning_clip(0.1, num_frames=1), 10) == 0


def test_what_does_not_move_scores_nothing():
    still = np.repeat(panning_clip(0, num_frames=1), 20, axis=0)
    noise = np.random.default_rng(0).integers(-1, 2, still.shape)
    assert motion_score(still, 10) == 0
    assert motion_score((still.clip(1, 254) + noise).astype(np.uint8), 10) < STATIC_SCORE  # one level of codec noise


def test_small_frames_have_a_short_side_of_64_and_no_endless_long_one():
    shapes = {(96, 128): (64, 85), (128, 96): (85, 64), (9, 16): (64, 114), (16, 4000): (64, 512)}
    for size, small in shapes.items():
        assert small_grey(np.zeros((*size, 3), np.uint8)).shape == small


def test_faster_is_a_higher_bucket():
    scores = [motion_score(panning_clip(speed), 10) for speed in (0.05, 0.1, 0.2)]
    for mode in ("quantile", "zscore"):
        buckets = to_buckets(scores, mode)
        assert buckets == sorted(set(buckets)) and buckets[0] >= 1 and buckets[-1] <= 255


def test_buckets_by_their_definitions():
    scores = [0.0, 3.0, 1.0, 1.0]
    assert to_buckets(scores, "quantile") == [round(1 + 254 * share) for share in (0.25, 1, 0.75, 0.75)]
    assert to_buckets(scores, "zscore") == [
        round(127 + 40 * (score - np.mean(scores)) / np.std(scores)) for score in scores
    ]
    assert to_buckets(scores, "const") == [127] * 4
    assert to_buckets([0] * 99 + [1], "zscore")[-1] == 255 and to_buckets([2, 2], "zscore") == [127, 127]
    assert [to_buckets([], mode) for mode in ("quantile", "zscore", "const")] == [[], [], []]
    with pytest.raises(ValueError, match="quantile, zscore, const"):
        to_buckets(scores, "linear")


def test_buckets_of_a_window_are_those_of_the_dataset():
    dataset = [0.1, 0.2, 0.3, 0.4]
    assert to_buckets([0.05, 0.25, 0.3, 9.0], reference=dataset) == [1, 128, 192, 255]
    assert to_buckets([0.25], "zscore", dataset) == [127]
