"""The demo dataset's ground truth: balance, geometry and wording."""

import re
from collections import Counter

import numpy as np
import pytest

from utils.demo_data import shapes
from utils.evaluation.judge import wanted


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text))


@pytest.mark.parametrize("hard", [False, True])
def test_heldout_combinations_never_occur_and_every_attribute_does(hard):
    plan = [clip["attributes"] for clip in shapes.plan_clips(1500, seed=3, hard=hard)]
    seen = {(a["shape"], a["colour"], a["direction"]) for clip in plan for a in clip}
    every = {
        (a["shape"], a["colour"], a["direction"]) for held in (0, 1) for a in shapes.combinations(hard, bool(held))
    }
    held_out = every - seen
    assert len(every) == (96 if hard else 48) and len(held_out) == len(every) // 4
    colours = list(shapes.HARD_COLOURS)
    for shape, colour, direction in held_out:
        i, j = shapes.SHAPES.index(shape), colours.index(colour)
        assert list(shapes.DIRECTIONS)[(i + j) % 4] == direction


def test_combinations_and_forms_are_balanced():
    plan = shapes.plan_clips(1500, seed=0)
    combos = Counter(tuple(clip["attributes"][0].values()) for clip in plan)
    assert len(combos) == 144 and max(combos.values()) - min(combos.values()) <= 1
    forms = Counter(clip["form"] for clip in plan)
    assert len(forms) == len(shapes.TRAIN_FORMS) and max(forms.values()) - min(forms.values()) <= 1
    assert shapes.plan_clips(200, seed=0) == plan[:200]


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("held_out", [False, True])
def test_benchmark_is_balanced_in_either_wording_and_stays_on_its_side(hard, held_out):
    prompts, block = shapes.benchmark_prompts(192, hard, held_out), 96 if hard else 48
    asked = [wanted(prompt) for prompt in prompts]
    for part in (asked[:block], asked, asked[::2], asked[1::2], asked[1:block:2]):
        for name in shapes.ATTRIBUTES:
            counts = Counter(each[name] for each in part)
            assert None not in counts and len(set(counts.values())) == 1
    triples = {(each["shape"], each["colour"], each["direction"]) for each in asked}
    assert {shapes.is_held_out(*triple) for triple in triples} == {held_out}
    assert len(triples) == (24 if hard else 12) * (1 if held_out else 3)
    assert len(set(prompts)) == len(prompts)
    combos = [tuple(wanted(prompt).values()) for prompt in shapes.benchmark_prompts(3 * block, hard, held_out)]
    assert len(set(combos)) == block * (1 if held_out else 3)
    if held_out:  # the second block repeats the combinations of the first, each in the other wording
        assert set(combos[: 2 * block : 2]) == set(combos[1 : 2 * block : 2])


def test_benchmark_grows_without_changing_and_is_never_far_from_balance():
    longest = shapes.benchmark_prompts(240)
    asked = [wanted(prompt) for prompt in longest]
    for count in (0, 1, 2, 7, 24, 47, 48, 49, 100, 192):
        assert shapes.benchmark_prompts(count) == longest[:count]
    for count in range(1, 240):
        for name, values in (("shape", shapes.SHAPES), ("colour", shapes.COLOURS), ("speed", shapes.SPEEDS)):
            counts = Counter(each[name] for each in asked[:count])
            assert max(counts.values()) - min(counts[value] for value in values) <= 3


def test_every_second_benchmark_prompt_is_worded_as_no_training_caption_is():
    def template(caption: str) -> str:
        words_of = {word for table in shapes.WORDS.values() for texts in table.values() for word in texts}
        for word in sorted({*shapes.HARD_COLOURS, *shapes.SHAPES, *words_of}, key=len, reverse=True):
            caption = re.sub(rf"\b{word}\b", "_", caption)
        return caption.replace("an _", "a _")

    rng = np.random.default_rng(0)
    training = {
        template(shapes.describe(combo, form, rng))
        for form in shapes.TRAIN_FORMS
        for combo in shapes.combinations()[:16]
        for _ in range(4)
    }
    for hard in (False, True):
        known = [template(prompt) in training for prompt in shapes.benchmark_prompts(192, hard)]
        assert known == [True, False] * 96
    assert all(template(prompt) in training for prompt in shapes.benchmark_prompts(48, forms=(shapes.FULL_FORMS,)))


def test_heldout_forms_use_only_words_of_training_captions():
    train, held_out = (
        {
            word
            for seed, form in enumerate(forms * 40)
            for combo in shapes.combinations()[seed % 11 :: 11]
            for word in words(shapes.describe(combo, form, np.random.default_rng(seed)))
        }
        for forms in (shapes.TRAIN_FORMS, shapes.HELDOUT_FORMS)
    )
    assert held_out < train
    assert not set(shapes.HELDOUT_FORMS) & set(shapes.TRAIN_FORMS)


@pytest.mark.parametrize("form", shapes.TRAIN_FORMS + shapes.HELDOUT_FORMS)
def test_captions_are_true_and_grammatical(form):
    rng = np.random.default_rng(0)
    for attributes in shapes.combinations(hard=True) + shapes.combinations(hard=True, held_out=True):
        caption = shapes.describe(attributes, form, rng)
        assert {attributes["shape"], attributes["colour"]} <= words(caption)
        assert attributes["direction"] in caption and "{" not in caption and "a orange" not in caption
        for slot, values in (("size", shapes.SIZES), ("speed", shapes.SPEEDS)):
            other = next(value for value in values if value != attributes[slot])
            lies = {
                word for table in (slot, f"{slot}_adjective") for word in shapes.WORDS.get(table, {}).get(other, ())
            }
            assert not lies & words(caption)


@pytest.mark.parametrize("shape", shapes.SHAPES)
@pytest.mark.parametrize("size", [64, 96])
def test_drawn_shape_has_the_promised_area_and_centroid(shape, size):
    radius, centre = 0.17 * size, (0.45 * size, 0.55 * size)
    alpha = shapes.coverage(shape, radius, [centre], size, size)[0]
    assert alpha.sum() == pytest.approx(np.pi * radius**2, rel=0.01)
    y, x = np.mgrid[:size, :size] + 0.5
    assert ((alpha * x).sum() / alpha.sum(), (alpha * y).sum() / alpha.sum()) == pytest.approx(centre, abs=0.1)
    assert ((alpha > 0.01) & (alpha < 0.99)).sum() > 20 or shape == "square"  # anti-aliased


def test_triangle_points_up():
    rows = shapes.coverage("triangle", 12, [(32, 32)], 64, 64)[0].sum(axis=1)
    assert rows[32 + 8] > rows[32] > rows[32 - 12] > 0


@pytest.mark.parametrize("hard", [False, True])
def test_objects_stay_inside_move_straight_and_keep_their_promises(hard):
    for index, clip in enumerate(shapes.plan_clips(400, seed=1, hard=hard)):
        for thing in shapes.place_all(clip["attributes"], 16, 64, np.random.default_rng(index)):
            path, radius = np.array(thing["path"]) / 64, thing["radius"] / 64
            left, right, up, down = (radius * extent for extent in shapes.EXTENTS[thing["shape"]])
            assert (path >= np.array([left, up]) - 1e-4).all() and (path <= 1 - np.array([right, down]) + 1e-4).all()
            step = path[-1] - path[0]
            low, high = shapes.SPEEDS[thing["speed"]]
            assert low - 1e-4 <= np.abs(step).sum() <= high + 1e-4
            assert np.allclose(step / np.abs(step).sum(), shapes.DIRECTIONS[thing["direction"]], atol=1e-6)
            assert np.allclose(np.diff(path, axis=0), step / 15, atol=1e-5)
            assert shapes.SIZES[thing["size"]][0] - 1e-4 <= radius <= shapes.SIZES[thing["size"]][1] + 1e-4


def test_widest_fastest_shape_still_fits_the_frame():
    thing = {"shape": "triangle", "colour": "red", "direction": "left", "speed": "fast", "size": "large"}
    for seed in range(2000):
        placed = shapes.place(thing, 2, 64, np.random.default_rng(seed))
        half = placed["radius"] * shapes.EXTENTS["triangle"][0]
        x = np.array(placed["path"])[:, 0]
        assert half - 1e-3 <= x.min() and x.max() <= 64 - half + 1e-3
        assert 0.42 * 64 - 1e-3 <= np.ptp(x) <= 0.48 * 64 + 1e-3


def test_hard_clips_often_show_two_objects_apart_and_name_both():
    pairs = 0
    for index, plan in enumerate(shapes.plan_clips(60, seed=0, hard=True)):
        frames, caption, objects = shapes.make_clip(plan, index, 0, 16, 64, hard=True)
        assert all({thing["shape"], thing["colour"]} <= words(caption) for thing in objects)
        named = [word for word in re.findall("[a-z]+", caption) if word in shapes.HARD_COLOURS]
        assert named == [thing["colour"] for thing in objects] and len(set(named)) == len(named)
        assert frames[:, :4, :4].std() > 0
        if len(objects) == 2:
            pairs += 1
            for t in (0, -1):
                one, two = (shapes.coverage(o["shape"], o["radius"], [o["path"][t]], 64, 64) for o in objects)
                assert (one * two).sum() < 0.35 * min(one.sum(), two.sum())
    assert 20 <= pairs <= 40
