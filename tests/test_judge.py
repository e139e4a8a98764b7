"""The judge is right about real clips and finds nothing in noise, so that its word on generated ones counts."""

import pytest

from utils import shapes
from utils.judge import judge, wanted


@pytest.mark.parametrize("size", [32, 64])
def test_judge_is_right_about_real_clips(size):
    plans = shapes.plan_clips(144, seed=5)
    for i, plan in enumerate(plans):
        frames, caption, objects = shapes.make_clip(plan, i, 5, 8, size, hard=False)
        verdict, asked = judge(frames), wanted(caption)
        assert verdict.coherent
        for name in shapes.ATTRIBUTES:
            assert getattr(verdict, name) == objects[0][name]
            assert asked[name] in (None, objects[0][name])
