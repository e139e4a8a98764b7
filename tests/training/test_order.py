"""The order of samples and of random numbers."""

from itertools import islice

import torch

from utils.training.order import EndlessSampler, seed_step


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
