"""The order of samples and of random numbers."""

from collections import Counter
from itertools import islice

import pytest
import torch

from utils.training.order import BucketSampler, EndlessSampler, seed_step


def test_each_epoch_is_another_permutation_of_all_samples():
    samples = list(islice(EndlessSampler(7, seed=1), 21))
    for epoch in range(3):
        part = samples[7 * epoch : 7 * epoch + 7]
        assert {e for e, _ in part} == {epoch} and sorted(i for _, i in part) == list(range(7))
    assert [i for _, i in samples[:7]] != [i for _, i in samples[7:14]]


def test_order_goes_on_where_it_was_stopped_and_depends_on_the_seed():
    whole = list(islice(EndlessSampler(7, seed=1), 30))
    assert list(islice(EndlessSampler(7, seed=1, start=11), 19)) == whole[11:]
    assert list(islice(EndlessSampler(7, seed=2), 30)) != whole


def test_processes_share_the_samples_without_overlap():
    whole = list(islice(EndlessSampler(7, seed=1), 30))
    ranks = [list(islice(EndlessSampler(7, seed=1, rank=r, world_size=3), 10)) for r in range(3)]
    assert [sample for trio in zip(*ranks, strict=True) for sample in trio] == whole


def test_random_numbers_of_a_step_do_not_depend_on_the_steps_before():
    seed_step(3, 10, 0, 0)
    expected = torch.randn(4)
    seed_step(3, 9, 0, 0)
    torch.randn(100)
    seed_step(3, 10, 0, 0)
    assert torch.equal(torch.randn(4), expected)
    seed_step(3, 10, 1, 0)
    assert not torch.equal(torch.randn(4), expected)


GROUPS = [(range(20), 0.625), (range(20, 30), 0.3125), ([30, 31], 0.0625)]


def group_of(index: int) -> int:
    return next(n for n, (clips, _) in enumerate(GROUPS) if index in clips)


def test_no_batch_mixes_groups_and_each_group_has_its_share():
    samples = list(islice(BucketSampler(GROUPS, 4, seed=1), 3200))
    batches = [{group_of(index) for _, index in samples[n : n + 4]} for n in range(0, len(samples), 4)]
    assert all(len(groups) == 1 for groups in batches)
    for upto in (16, 160, 800):  # to within a batch, at any time
        counts = Counter(min(groups) for groups in batches[:upto])
        assert all(abs(counts[n] - share * upto) <= 1 for n, (_, share) in enumerate(GROUPS)), counts
    order = [min(groups) for groups in batches]
    assert order[:80] != order[80:160]  # and in no rhythm


def test_each_group_comes_in_permutations_of_its_own():
    samples = list(islice(BucketSampler(GROUPS, 4, seed=1), 1600))
    for clips, _ in GROUPS:
        own = [(epoch, index) for epoch, index in samples if index in clips]
        for epoch in range(3):
            part = own[epoch * len(clips) : (epoch + 1) * len(clips)]
            assert {e for e, _ in part} == {epoch} and sorted(i for _, i in part) == list(clips)


@pytest.mark.parametrize("batches", [0, 1, 2, 3, 7, 50, 399])
def test_buckets_go_on_where_they_were_stopped(batches):
    whole = list(islice(BucketSampler(GROUPS, 4, seed=1), 1800))
    assert list(islice(BucketSampler(GROUPS, 4, seed=1, start=4 * batches), 100)) == whole[4 * batches :][:100]
    assert list(islice(BucketSampler(GROUPS, 4, seed=2), 100)) != whole[:100]


def test_processes_work_on_the_same_bucket_at_a_time_without_overlap():
    whole = list(islice(BucketSampler(GROUPS, 6, seed=1), 600))
    ranks = [list(islice(BucketSampler(GROUPS, 2, seed=1, rank=r, world_size=3), 200)) for r in range(3)]
    assert [sample for trio in zip(*ranks, strict=True) for sample in trio] == whole
