"""Scores of clips against their prompts: exact where that is possible, and honest about how sure they are."""

import pytest

from utils.scores import wilson


def test_wilson_interval_is_the_published_one():
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
