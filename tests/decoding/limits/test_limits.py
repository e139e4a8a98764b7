"""Damaged files never give garbage, take long or grow; reading leaves nothing behind."""

from tests.decoding.limits.fuzz import WHOLE, fuzz
from tests.decoding.limits.opens import MOST_GROWTH, grown


def test_a_damaged_file_is_refused_in_one_line_or_read_the_same_each_time(tmp_path):
    faults, table = fuzz(tmp_path, 4 * len(WHOLE), seed=11)  # python -m tests.decoding.limits.fuzz tries 300
    assert not faults, "\n".join(faults)
    assert "refused" in table


def test_memory_stays_flat_over_many_opens():
    assert grown(800) < MOST_GROWTH  # python -m tests.decoding.limits.opens tries 10,000
