"""The judge is right about real clips and finds nothing in noise, so that its word on generated ones counts."""

import json
from collections.abc import Iterator
from dataclasses import asdict

import cv2
import numpy as np
import pytest

from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.demo_data import shapes
from utils.evaluation.benchmark import faithfulness, judge_compressed, likeness
from utils.evaluation.judge import judge, wanted
from utils.evaluation.scores import chance, right
from utils.video.encode import write_video

OPPOSITE = {"left": "right", "right": "left", "up": "up", "down": "down"}


def real_clips(count: int, size: int, num_frames: int = 8, hard: bool = False) -> Iterator[tuple]:
    """(frames, attributes) of clips with one object."""
    for index, plan in enumerate(shapes.plan_clips(count, seed=5, hard=hard)):
        plan["attributes"] = plan["attributes"][:1]
        frames, _, (thing,) = shapes.make_clip(plan, index, 5, num_frames, size, hard)
        yield frames, {name: thing[name] for name in shapes.ATTRIBUTES}


def shares(clips) -> dict[str, float]:
    """Share of (frames, attributes) that the judge gets right, for each attribute, "all", "strict" and "coherent"."""
    hits = [right(judge(frames), attributes) for frames, attributes in clips]
    return {name: np.mean([hit[name] for hit in hits]) for name in hits[0]}


def clip_of(things: list[dict], hard: bool, size: int = 32) -> np.ndarray:
    background = shapes.texture(size, size, np.random.default_rng(0)) if hard else None
    return shapes.draw(things, len(things[0]["path"]), size, background)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize(("size", "num_frames"), [(32, 8), (32, 16), (64, 8), (64, 16)])
def test_real_clips_are_what_they_are(size, num_frames, hard):
    assert min(shares(real_clips(100, size, num_frames, hard)).values()) >= 0.99


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("size", [32, 64])
def test_real_clips_are_what_they_are_after_compression(size, hard, tmp_path):
    def compressed():
        for frames, attributes in real_clips(32, size, 8, hard):
            write_video(tmp_path / "clip.mp4", frames, 8)
            yield read_frames(probe_video(tmp_path / "clip.mp4"), range(8)), attributes

    assert min(shares(compressed()).values()) >= 0.99


def test_any_size_and_two_frames_will_do():
    for size, num_frames in ((24, 2), (48, 3), (96, 2)):
        assert min(shares(real_clips(12, size, num_frames)).values()) == 1
    for frames, attributes in real_clips(12, 32):
        wide = np.pad(frames, [(0, 0), (4, 4), (16, 16), (0, 0)], constant_values=24)
        verdict = judge(wide)
        assert [verdict.colour, verdict.shape] == [attributes["colour"], attributes["shape"]]
        share = 32 / (64 if attributes["direction"] in ("left", "right") else 40)
        assert verdict.travel == pytest.approx(share * judge(frames).travel, rel=0.01) and verdict.coherent
    assert judge(np.zeros((2, 1, 3, 3), np.uint8)).colour is None
    assert judge(frames[:1]).colour is None  # one frame is no clip


def test_shuffled_captions_score_chance():
    rng, clips = np.random.default_rng(0), list(real_clips(144, 32, num_frames=2))
    verdicts, asked = [judge(frames) for frames, _ in clips], [attributes for _, attributes in clips]
    hits = []
    for _ in range(20):
        order = rng.permutation(len(clips))
        hits += [right(verdicts[i], attributes) for i, attributes in zip(order, asked, strict=True)]
    for name, share in chance(asked).items():
        deviation = (share * (1 - share) / len(hits)) ** 0.5
        assert np.mean([hit[name] for hit in hits]) == pytest.approx(share, abs=4 * deviation)


def test_noise_lowers_the_scores_step_by_step_to_nothing():
    rng, clips = np.random.default_rng(0), list(real_clips(24, 32))
    scores = []
    for sigma in (0, 30, 60, 120, 200, 400):  # 8-bit levels
        noise = (rng.normal(0, sigma, frames.shape) for frames, _ in clips)
        noisy = [
            (frames + n).round().clip(0, 255).astype(np.uint8) for (frames, _), n in zip(clips, noise, strict=True)
        ]
        scores.append(shares((frames, attributes) for frames, (_, attributes) in zip(noisy, clips, strict=True)))
    for name in scores[0]:
        course = [score[name] for score in scores]
        assert course[0] == course[1] == 1 and course[-1] <= 0.05
        assert all(after <= before + 0.05 for before, after in zip(course, course[1:], strict=False))


def test_slight_blur_changes_nothing():
    for size, sigma in ((32, 1), (64, 2)):
        blurred = (
            (np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames]), attributes)
            for frames, attributes in real_clips(24, size)
        )
        assert min(shares(blurred).values()) >= 0.95


def test_ragged_outlines_and_noisy_backgrounds_are_told_apart(tmp_path):
    clips = [frames for frames, _ in real_clips(24, 64)]
    rng = np.random.default_rng(0)
    coarse = [cv2.resize(frame, (16, 16), interpolation=cv2.INTER_AREA) for clip in clips for frame in clip]
    coarse = [cv2.resize(frame, (64, 64), interpolation=cv2.INTER_NEAREST) for frame in coarse]
    ragged = np.array(coarse).reshape(24, 8, 64, 64, 3)
    noisy = [np.clip(clip + rng.normal(0, 3, clip.shape), 0, 255).astype(np.uint8) for clip in clips]
    for videos, crisp, still in ((clips, True, True), (ragged, False, True), (noisy, True, False)):
        found = faithfulness([judge(video) for video in videos], clips, 8)
        within = {name: each["share"].value for name, each in found.items()}
        assert (within["misfit"] >= 0.95, within["flicker"] >= 0.95) == (crisp, still)
        assert (within["misfit"] <= 0.1 or crisp) and (within["flicker"] <= 0.1 or still)
    nothing = judge(np.zeros((8, 64, 64, 3), np.uint8))
    assert faithfulness([judge(clips[0]), nothing], clips, 8)["misfit"]["share"].value == 0.5


def test_travel_flicker_and_contrast_are_told_apart():
    clips = [frames for frames, _ in real_clips(24, 64)]
    rng = np.random.default_rng(0)
    noisy = [np.clip(clip + rng.normal(0, 3, clip.shape), 0, 255).astype(np.uint8) for clip in clips]
    pale = [(clip * 0.7).astype(np.uint8) for clip in clips]
    slow = [clip[[0, 0, 1, 1, 2, 2, 3, 3]] for clip in clips]
    for videos, unlike in (
        (clips, set()),
        (noisy, {"flicker", "near"}),
        (pale, {"contrast", "near"}),
        (slow, {"travel", "near"}),
    ):
        found = likeness(list(judge_compressed(videos, 8)), clips, 8)
        assert {name for name, each in found.items() if not each["like"]} == unlike
    nothing = judge(np.zeros((8, 64, 64, 3), np.uint8))
    assert likeness([nothing, judge(clips[1])], clips[:2], 8)["travel"]["ratio"] == pytest.approx(1, abs=0.02)
    assert likeness([nothing], clips[:1], 8) == {}


@pytest.mark.parametrize("sigma", [0, 1, 2, 4, 8])  # px over which the noise is smooth
def test_noise_has_no_direction_and_is_not_coherent(sigma):
    rng = np.random.default_rng(0)
    for _ in range(20):
        noise = rng.normal(size=(8, 32, 32, 3)).astype(np.float32)
        if sigma:
            noise = np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in noise])
        verdict = judge((100 + 60 * (noise - noise.mean()) / noise.std()).clip(0, 255).astype(np.uint8))
        assert verdict.direction is None and verdict.speed is None and not verdict.coherent


@pytest.mark.parametrize("hard", [False, True])
def test_a_still_clip_has_no_direction_but_all_the_rest(hard):
    for frames, attributes in real_clips(24, 32, hard=hard):
        verdict = judge(np.repeat(frames[:1], 8, axis=0))
        assert verdict.direction is None and verdict.speed is None and verdict.travel == pytest.approx(0, abs=1e-6)
        assert [verdict.colour, verdict.shape, verdict.size] == [attributes[k] for k in ("colour", "shape", "size")]
        assert verdict.coherent


def test_an_empty_clip_has_nothing():
    for hard in (False, True):
        verdict = judge(clip_of([{"shape": "circle", "radius": 0, "rgb": [0] * 3, "path": [[-9, -9]] * 4}], hard))
        assert not any(getattr(verdict, name) for name in shapes.ATTRIBUTES)
        assert verdict.frames_seen == 0 and verdict.flaws == ("absent",) and not verdict.coherent


def test_what_no_shape_fits_has_no_shape():
    y, x = np.mgrid[:32, :32] + 0.5 - 16
    ring = (np.hypot(x, y) < 8) & (np.hypot(x, y) > 4)
    bar = (np.abs(x) < 10) & (np.abs(y) < 3)
    for mask in (ring, bar):
        verdict = judge(np.repeat(np.where(mask[..., None], (225, 45, 45), 24).astype(np.uint8)[None], 4, axis=0))
        assert verdict.colour == "red" and verdict.shape is None and verdict.flaws == ("shape",)


def test_a_drift_a_diagonal_a_reversal_and_a_leap_have_no_direction():
    ramp, still = np.linspace(9, 23, 8), np.full(8, 16)
    paths = {
        "steady": (ramp, still),
        "drift": (16 + (ramp - 16) / 4, still),
        "diagonal": (ramp, 0.8 * ramp),
        "reversal": (np.r_[ramp[::2], ramp[::-2]], still),
        "leap": (np.repeat([9, 23], 4), still),
    }
    for name, path in paths.items():
        thing = {"shape": "circle", "radius": 6, "rgb": [225, 45, 45], "path": np.stack(path, axis=1).tolist()}
        assert judge(clip_of([thing], hard=False)).direction == ("right" if name == "steady" else None)


def test_mirrored_and_reversed_clips_move_the_other_way():
    for frames, attributes in real_clips(24, 32):
        mirrored, backwards = judge(frames[:, :, ::-1]), judge(frames[::-1])
        assert mirrored.direction == OPPOSITE[attributes["direction"]]
        if attributes["direction"] in ("left", "right"):
            assert backwards.direction == OPPOSITE[attributes["direction"]]
        assert mirrored.colour == backwards.colour == attributes["colour"]


# Coherence: real clips with one thing wrong, which must be the one that is named --------------------------------------


def half_another(name: str, choices):
    """Two things on one path, that differ in one attribute, so that a clip can change from one to the other."""

    def broken(thing: dict, hard: bool, rng: np.random.Generator) -> np.ndarray:
        changed = thing | {name: choices(thing)}
        frames, late = clip_of([thing], hard), rng.integers(1, 8)
        frames[late:] = clip_of([changed], hard)[late:]
        return frames

    return broken


def absent_once(thing: dict, hard: bool, rng: np.random.Generator) -> np.ndarray:
    frames, away = clip_of([thing], hard), thing | {"path": [[-99, -99]] * 8}
    gone = rng.integers(8)
    frames[gone] = clip_of([away], hard)[gone]
    return frames


def second_object(thing: dict, hard: bool, rng: np.random.Generator) -> np.ndarray:
    far = 32 - np.array(thing["path"]).mean(0)  # the opposite side
    far = np.where(np.abs(far - 16).max() < 6, [4, 4], far)
    other = {"shape": "circle", "radius": 3, "rgb": [60, 215, 225], "path": [far.tolist()] * 8}
    return clip_of([thing, other], hard)


def jump(thing: dict, hard: bool, rng: np.random.Generator) -> np.ndarray:
    path, late = np.array(thing["path"]), rng.integers(1, 8)
    across = int(np.ptp(path, axis=0).argmin())  # the axis along which it does not move
    path[late:, across] += np.where(path[0, across] < 16, 7, -7)
    return clip_of([thing | {"path": path.tolist()}], hard)


BREAKS = {
    "absent": absent_once,
    "second": second_object,
    "size": half_another("radius", lambda thing: thing["radius"] * (1.28 if thing["size"] == "small" else 1 / 1.28)),
    "colour": half_another(
        "rgb", lambda thing: shapes.HARD_COLOURS["yellow" if thing["colour"] == "orange" else "orange"]
    ),
    "shape": half_another("shape", lambda thing: "square" if thing["shape"] == "circle" else "circle"),
    "jump": jump,
}


@pytest.mark.parametrize("flaw", BREAKS)
@pytest.mark.parametrize("hard", [False, True])
def test_a_clip_with_one_flaw_is_not_coherent_and_the_flaw_is_named(flaw, hard):
    for seed, plan in enumerate(shapes.plan_clips(20, seed=7, hard=hard)):
        rng = np.random.default_rng(seed)
        thing = shapes.place(plan["attributes"][0], 8, 32, rng)
        thing["path"] = (16 + 0.5 * (np.array(thing["path"]) - 16)).tolist()  # room for what goes wrong
        assert judge(clip_of([thing], hard)).flaws == ()
        assert judge(BREAKS[flaw](thing, hard, rng)).flaws == (flaw,)


def test_a_missing_frame_is_no_jump():
    for frames, attributes in real_clips(24, 32, num_frames=5):
        frames[1] = shapes.BACKGROUND
        verdict = judge(frames)
        assert verdict.flaws == ("absent",) and verdict.frames_seen == 4
        assert [verdict.direction, verdict.speed] == [attributes["direction"], attributes["speed"]]


def test_two_objects_are_not_one():
    for index, plan in enumerate(shapes.plan_clips(40, seed=5, hard=True)):
        frames, _, objects = shapes.make_clip(plan, index, 5, 8, 32, hard=True)
        assert judge(frames).coherent == (len(objects) == 1)


# Prompts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", shapes.TRAIN_FORMS + shapes.HELDOUT_FORMS)
def test_every_wording_is_understood(form):
    rng = np.random.default_rng(0)
    named = {name for name in shapes.ATTRIBUTES if f"{{{name}" in form} | (
        {"direction"} if "{towards}" in form else set()
    )
    for attributes in shapes.combinations(hard=True):
        asked = wanted(shapes.describe(attributes, form, rng).capitalize())
        assert asked == {name: attributes[name] if name in named else None for name in asked}


def test_what_a_prompt_does_not_say_is_not_asked():
    assert wanted("An ORANGE circle, to the left!") | {} == {
        "colour": "orange",
        "shape": "circle",
        "direction": "left",
        "speed": None,
        "size": None,
    }
    assert not any(wanted("the sea at night").values())
    two = wanted("a small red circle moving left slowly and a small blue circle moving right fast")
    assert two == {"colour": None, "shape": "circle", "direction": None, "speed": None, "size": "small"}


def test_a_verdict_is_plain_data():
    frames, _ = next(real_clips(1, 32))
    verdict = asdict(judge(frames))
    assert json.loads(json.dumps(verdict)) == verdict | {"flaws": []}
