"""The judge is right about real clips and finds nothing in noise, so that its word on generated ones counts."""

import numpy as np
import pytest

from tests.judge import judge, wanted
from utils import shapes


@pytest.mark.parametrize("size", [32, 64])
def test_judge_is_right_about_real_clips(size):
    plans = shapes.plan_clips(144, seed=5)
    for i, plan in enumerate(plans):
        frames, caption, objects = shapes.make_clip(plan, i, 5, 8, size, hard=False)
        truth = {name: objects[0][name] for name in ("colour", "shape", "direction")}
        assert judge(frames) == truth == wanted(caption)


def test_judge_sees_no_motion_in_a_still_clip_and_nothing_in_a_dark_one():
    frames, _, objects = shapes.make_clip(shapes.plan_clips(1, seed=5)[0], 0, 5, 8, 32, hard=False)
    still = judge(np.repeat(frames[:1], 8, axis=0))
    assert still["direction"] is None and still["colour"] == objects[0]["colour"]
    assert judge(np.full((8, 32, 32, 3), 24, np.uint8)) == {"colour": None, "shape": None, "direction": None}


def test_judge_sees_no_direction_in_noise():
    rng = np.random.default_rng(0)
    verdicts = [judge(rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8))["direction"] for _ in range(50)]
    assert verdicts.count(None) > 45
