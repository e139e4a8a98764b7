"""Generated clips that are training clips are found, and fresh ones are left in peace."""

import numpy as np
import pytest

from models.metrics.video_features import pick_frames
from tests.clips import panning_clip
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.evaluation import memorisation
from utils.evaluation.memorisation import nearest_training_clips, small_clips
from utils.video.encode import write_video

SHAPE = {"num_frames": 10, "height": 48, "width": 64}


@pytest.fixture(scope="module")
def training() -> list[np.ndarray]:
    return [panning_clip(0.1 + 0.01 * seed, seed=seed, **SHAPE) for seed in range(24)]


@pytest.fixture(scope="module")
def fresh() -> list[np.ndarray]:
    return [panning_clip(0.2, seed=100 + seed, **SHAPE) for seed in range(12)]


def test_copies_are_found_and_suspected_and_fresh_clips_are_not(training, fresh, tmp_path):
    write_video(tmp_path / "copy.mp4", training[5], 10)
    encoded = read_frames(probe_video(tmp_path / "copy.mp4"), range(10))
    noise = np.random.default_rng(0).normal(0, 15, training[7].shape)
    noised = (training[7] + noise).clip(0, 255).astype(np.uint8)
    halved = training[9][:, ::2, ::2]
    result = nearest_training_clips([encoded, noised, halved, *fresh], training)
    assert result.nearest[:3].tolist() == [5, 7, 9]
    assert result.suspected.tolist() == [True] * 3 + [False] * len(fresh)
    assert result.ratio[:3].max() < 0.3 and result.ratio[3:].min() > 0.7
    assert result.suspected_share.value == pytest.approx(3 / 15)


def test_a_mirrored_copy_is_not_found(training):
    assert not nearest_training_clips([training[3][:, :, ::-1]], training).suspected.any()


def test_fresh_clips_are_about_as_close_to_the_training_set_as_its_clips_are_to_each_other(training, fresh):
    closer = nearest_training_clips(fresh, training).closer_share
    assert closer.low < 0.5 < closer.high
    assert nearest_training_clips(training, training).closer_share.value == 1


def test_a_copy_of_a_clip_that_the_training_set_holds_twice_is_suspected(training):
    result = nearest_training_clips([training[2]], [*training, training[2]])
    assert result.suspected.all() and result.usual[0] > 20


def test_the_distance_is_the_root_mean_square_of_the_small_clips(training, fresh):
    result = nearest_training_clips(fresh, training)
    small, known = (small_clips(clips).astype(float) for clips in (fresh, training))
    distances = np.sqrt(np.square(small[:, None] - known).mean(axis=2))
    assert result.nearest.tolist() == distances.argmin(axis=1).tolist()
    np.testing.assert_allclose(result.distance, distances.min(axis=1), rtol=1e-3)
    among = np.sqrt(np.square(known[:, None] - known).mean(axis=2)) + np.diag(np.full(len(known), np.inf))
    np.testing.assert_allclose(result.usual, among.min(axis=1)[result.nearest], rtol=1e-3)
    np.testing.assert_allclose(np.sort(result.training_distance), np.sort(among.min(axis=1)), rtol=1e-3)


def test_the_result_does_not_depend_on_the_chunks(training, fresh, monkeypatch):
    whole = nearest_training_clips([*fresh, training[20]], training)
    monkeypatch.setattr(memorisation, "CHUNK", 1)  # blocks of 16 training clips, of 24
    chunked = nearest_training_clips([*fresh, training[20]], training)
    assert chunked.nearest.tolist() == whole.nearest.tolist() and 20 in chunked.nearest
    np.testing.assert_allclose(chunked.distance, whole.distance, atol=0.1)
    np.testing.assert_allclose(chunked.usual, whole.usual, atol=0.1)


def test_clips_are_read_once_and_of_any_length(training):
    short = training[4][pick_frames(10, 5)]
    result = nearest_training_clips(iter([short, training[6][:1]]), iter(training))
    assert result.nearest[0] == 4 and result.distance[0] < 10
    assert result.distance.shape == (2,)


def test_sets_among_which_nothing_is_usual_are_refused(training):
    with pytest.raises(ValueError, match="0 generated and 24 training clips"):
        nearest_training_clips([], training)
    with pytest.raises(ValueError, match="1 generated and 1 training clips"):
        nearest_training_clips(training[:1], training[:1])
    with pytest.raises(ValueError, match="same clip"):
        nearest_training_clips(training[:1], [training[0]] * 3)
