import numpy as np
import pytest

from tests.clips import panning_clip
from utils.evaluation.motion_statistics import compare_motion, motion_statistics
from utils.video.motion import (
    DIRECTIONS,
    SPEED_EDGES,
    STATIC_SCORE,
    flow_histogram,
    motion_score,
    small_grey,
    to_buckets,
)


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


def test_the_flow_of_a_pan_goes_its_way_at_its_speed():
    histogram = flow_histogram(panning_clip(0.3), 10)  # to the left
    shares = histogram[1:].reshape(len(SPEED_EDGES), DIRECTIONS)
    assert histogram.shape == (49,) and histogram.sum() == pytest.approx(1)
    assert shares.sum(axis=0).argmax() == 4 and shares[:, 4].sum() > 0.9
    assert shares[:, 4].argmax() == np.digitize(0.3, SPEED_EDGES) - 1
    down = flow_histogram(panning_clip(-0.3).transpose(0, 2, 1, 3).copy(), 10)
    assert down[1:].reshape(-1, DIRECTIONS)[:, 2].sum() > 0.9


def test_the_flow_depends_on_neither_resolution_nor_frame_rate():
    histogram = flow_histogram(panning_clip(0.15), 10)
    for fps, height, width in ((10, 48, 64), (4, 96, 128), (25, 96, 128)):
        other = flow_histogram(panning_clip(0.15, 2 * fps, fps, height, width), fps)
        assert np.abs(other - histogram).sum() < 0.2


def test_the_flow_of_what_does_not_move_is_still():
    still = np.repeat(panning_clip(0, num_frames=1), 5, axis=0)
    for clip in (still, still[:1]):
        assert flow_histogram(clip, 10)[0] == 1


def test_statistics_of_a_set_that_moves_and_of_one_that_does_not():
    moving = [panning_clip(speed, num_frames=8, seed=n) for n, speed in enumerate((0.1, 0.12, 0.2, 0.15, 0.1, 0.18))]
    still = [np.repeat(clip[:1], 8, axis=0) for clip in moving]
    moves, stays = motion_statistics(iter(moving), 10), motion_statistics(still, 10)
    summary = moves.summary()
    assert summary["mean_motion"].value == pytest.approx(np.mean(moves.scores)) == pytest.approx(0.14, rel=0.1)
    assert summary["median_motion"].value == np.median(moves.scores) and summary["static_share"].value == 0
    assert stays.summary()["static_share"].value == 1 and stays.frame_differences == (0.0,) * 6
    steps = np.abs(np.diff(moving[0].astype(float), axis=0)).mean()
    assert moves.frame_differences[0] == pytest.approx(steps)

    comparison = compare_motion(stays, moves)
    assert all(row.differ for row in comparison.values())
    assert comparison["mean_motion"].difference.value == pytest.approx(-np.mean(moves.scores))
    assert not any(row.differ for row in compare_motion(moves, moves).values())
    with pytest.raises(ValueError, match="no clips"):
        motion_statistics([], 10)
