from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np
import pytest

from tests.clips import encode, panning_clip
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.evaluation.motion_statistics import compare_motion, motion_statistics
from utils.motion.score import (
    DIRECTIONS,
    SPEED_EDGES,
    flow_histogram,
    is_static,
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
    noisy = (still.clip(1, 254) + noise).astype(np.uint8)  # one level of codec noise
    assert (
        motion_score(noisy, 10) < 0.001 and is_static(noisy, 10) and is_static(still, 10) and is_static(still[:1], 10)
    )


# Objects before a still camera: the score is the share of the picture that moves times its speed in short sides/s.

CODECS = {
    "lossless": None,
    "H.264": ("a.mp4", "libx264", "yuv420p"),
    "VP9": ("a.webm", "libvpx-vp9", "yuv420p"),
    "MPEG-4": ("a.avi", "mpeg4", "yuv420p"),
    "MJPEG": ("b.avi", "mjpeg", "yuvj420p"),
}
DEFAULT = {"size": 24, "step": 3, "background": "soft", "shape": "square", "fps": 10, "codec": "lossless", "angle": 0}


@lru_cache
def still_picture(background: str) -> np.ndarray:
    """float RGB (192, 256, 3)."""
    if background == "soft":
        return panning_clip(0, 1, height=192, width=256)[0] / 3.0 + 90
    if background == "checker":
        y, x = np.mgrid[:192, :256] // 14
        return np.repeat(90.0 + 70 * ((x + y) % 2)[..., None], 3, axis=-1)
    if background == "same grey":
        return np.full((192, 256, 3), [60.0, 110.0, 70.0])
    texture = np.random.default_rng(3).normal(size=(192, 256, 3))
    texture = cv2.GaussianBlur(texture, None, 1.5) if background == "fine" else texture
    return 140 + {"plain": 0, "fine": 25, "noise": 30}[background] * texture / texture.std()


def object_clip(size, step, background, shape, fps, angle, seconds=1) -> tuple[np.ndarray, float]:
    """(uint8 RGB (T, 192, 256, 3), area share * speed): a red object that moves `step` px a frame from the left."""
    y, x = np.mgrid[:192, :256] + 0.5
    direction = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    skin = still_picture("fine")
    frames, areas = [], []
    for n in range(round(seconds * fps) + 1):
        left, top = np.array([20, 40]) + n * step * direction
        inside = np.clip(np.minimum(x - left, left + size - x) + 0.5, 0, 1)
        inside = inside * np.clip(np.minimum(y - top, top + size - y) + 0.5, 0, 1)
        if shape == "disc":
            inside = np.clip(size / 2 + 0.5 - np.hypot(x - left - size / 2, y - top - size / 2), 0, 1)
        elif shape == "bar":
            inside = np.clip(np.minimum(x - left, left + size / 3 - x) + 0.5, 0, 1) * (y < 150)
        elif shape == "two":
            inside = np.maximum(inside, np.roll(inside, 70, axis=0)[:, ::-1])
        move = np.float32([[1, 0, left], [0, 1, top]])
        moved = cv2.warpAffine(skin, move, (256, 192), borderMode=cv2.BORDER_REFLECT)
        colour = moved * 1.5 - 60 if shape == "textured" else np.array([200.0, 40, 40])
        frames.append(still_picture(background) * (1 - inside[..., None]) + colour * inside[..., None])
        areas.append(inside.mean())
    return np.rint(np.clip(frames, 0, 255)).astype(np.uint8), np.mean(areas) * step * fps / 192


def through(codec: str, clip: np.ndarray, fps: int, folder) -> np.ndarray:
    if CODECS[codec] is None:
        return clip
    name, encoder, pix_fmt = CODECS[codec]
    info = probe_video(encode(folder / name, clip, encoder, pix_fmt, fps))
    return read_frames(info, range(info.frames))


@pytest.mark.parametrize(
    "facts",
    [
        *({"background": background} for background in ("plain", "soft", "fine", "noise")),
        *({"size": 16, "step": 5, "background": background} for background in ("plain", "soft", "fine")),
        *({"size": 32, "step": 2, "codec": codec} for codec in CODECS),
        *({"size": 40, "step": 40 / fps, "background": "plain", "fps": fps} for fps in (5, 30)),
        *({"size": 36, "shape": shape, "background": "plain"} for shape in ("disc", "bar", "two", "textured")),
        {"size": 30, "angle": 40},
        {"size": 40, "step": 1, "background": "fine"},
        *({"background": "checker", "shape": shape, "codec": "H.264"} for shape in ("disc", "textured")),
        {"background": "same grey", "codec": "MJPEG"},
        {"size": 16, "step": 20, "background": "fine"},
    ],
    ids=lambda facts: ", ".join(map(str, facts.values())),
)
def test_the_score_of_an_object_is_its_share_of_the_picture_times_its_speed(facts, tmp_path):
    facts = DEFAULT | facts
    codec = facts.pop("codec")
    clip, expected = object_clip(**facts)
    clip = through(codec, clip, facts["fps"], tmp_path)
    assert expected / 1.5 < motion_score(clip, facts["fps"]) < expected * 1.5
    assert not is_static(clip, facts["fps"])


@pytest.mark.parametrize("codec", ["lossless", "VP9"])
def test_a_bar_as_high_as_the_picture_moves_though_nothing_shows_its_direction_but_its_edges(codec, tmp_path):
    bar = np.full((20, 96, 128, 3), 189, np.uint8)
    for n, frame in enumerate(bar):
        frame[:, 4 * n : 4 * n + 16] = 0
    expected = 16 / 128 * 40 / 96
    assert expected / 1.5 < motion_score(through(codec, bar, 10, tmp_path), 10) < expected * 1.5


def test_the_score_of_a_pan_is_its_speed_though_half_of_the_picture_is_flat():
    clip = panning_clip(0.2)
    clip[:, : clip.shape[1] // 2] = 190
    assert motion_score(clip, 10) == pytest.approx(0.2, rel=0.1)


def test_objects_that_pass_each_other_are_two():
    one, expected = object_clip(24, 4, "soft", "square", 10, 0, seconds=2)
    background = np.rint(still_picture("soft")).astype(np.uint8)
    changed = (one != background).any(-1, keepdims=True)
    other = np.roll(changed, 30, axis=1)[:, :, ::-1]
    both = np.where(changed, one, np.where(other, np.uint8([40, 40, 200]), background))
    assert 2 * expected / 1.5 < motion_score(both, 10) < 2 * expected * 1.5


def test_motions_sort_alike_before_any_background():
    motions = [(16, 2), (24, 3), (32, 4), (40, 6)]
    backgrounds = ("plain", "soft", "fine", "noise")
    scores = [
        [motion_score(object_clip(*motion, background, "square", 10, 0)[0], 10) for background in backgrounds]
        for motion in motions
    ]
    assert all(max(slower) < min(faster) for slower, faster in pairwise(scores))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("background", ["plain", "fine"])
def test_noise_of_camera_and_codec_is_static(background, codec, tmp_path):
    rng, still = np.random.default_rng(0), object_clip(32, 0, background, "square", 10, 0)[0].astype(float)
    for sigma in (0, 4):
        clip = np.clip(np.rint(still + rng.normal(0, sigma, still.shape)), 0, 255).astype(np.uint8)
        clip = through(codec, clip, 10, tmp_path)
        assert is_static(clip, 10) and motion_score(clip, 10) < 0.0005


def test_a_flicker_of_the_whole_is_static_and_one_lamp_is_not():
    still = object_clip(32, 0, "soft", "square", 10, 0)[0]
    swing = 1 + 0.1 * np.sin(np.arange(len(still)) * 2.1)[:, None, None, None]
    assert is_static(np.rint(still * swing).clip(0, 255).astype(np.uint8), 10)
    still[4:, 50:70, 150:170] = 255
    assert not is_static(still, 10)


def test_what_drifts_slowly_is_not_static_though_half_a_second_shows_nothing():
    drift = panning_clip(0.002, num_frames=40)
    assert is_static(drift[:5], 10) and not is_static(drift, 10)


def test_an_object_under_camera_noise_scores_as_without():
    clip, expected = object_clip(24, 3, "soft", "square", 10, 0)
    noisy = clip + np.random.default_rng(0).normal(0, 3, clip.shape)
    assert expected / 1.5 < motion_score(np.rint(noisy).clip(0, 255).astype(np.uint8), 10) < expected * 1.5


def test_small_frames_have_a_short_side_of_128_and_no_endless_long_one():
    shapes = {(96, 128): (128, 171), (128, 96): (171, 128), (9, 16): (128, 228), (16, 4000): (128, 1024)}
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


def test_the_flow_of_an_object_leaves_the_rest_still():
    clip, _ = object_clip(40, 4, "soft", "square", 10, 0)
    histogram = flow_histogram(clip, 10)
    shares = histogram[1:].reshape(len(SPEED_EDGES), DIRECTIONS)
    assert 1 - histogram[0] == pytest.approx(40**2 / (192 * 256), rel=0.3)
    assert shares[:, 0].sum() > 0.9 * shares.sum() and shares.sum(1).argmax() == np.digitize(40 / 192, SPEED_EDGES) - 1


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


@pytest.mark.parametrize("num_frames", [4, 20])
def test_black_bars_are_no_part_of_a_pan(num_frames):
    clip = panning_clip(0.2, num_frames, height=96, width=128)
    boxed = np.zeros((num_frames, 128, 128, 3), np.uint8)
    boxed[:, 16:112] = clip
    assert motion_score(boxed, 10) == pytest.approx(0.2 * (96 / 128) ** 2, rel=0.1)  # of the area, in its short sides
    assert not is_static(boxed, 10) and not is_static(boxed.transpose(0, 2, 1, 3).copy(), 10)


def test_motion_nearly_everywhere_is_no_noise():
    clip = panning_clip(0.1, 4, height=96, width=128)
    clip[:, :36], clip[:, 60:] = clip[0, :36], 90  # it neither fills the picture nor reaches three sides of it
    clip[:, :, 100:] = 90
    wide = panning_clip(0.1, 4, height=96, width=128)
    wide[:, :4] = wide[:, -4:] = 120  # bars that are not black
    assert not is_static(clip, 10) and not is_static(wide, 10)
