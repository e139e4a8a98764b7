"""Distances of sets of features: by definition, without bias, and with intervals that hold what they promise."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from models.metrics.distances import (
    Distance,
    difference,
    frechet_distance,
    kernel_distance,
    mean_interval,
    median_interval,
    rank_runs,
    share_interval,
)

MIX = np.random.RandomState(1).normal(size=(24, 24)) * np.linspace(2, 0.1, 24)[:, None] / 5


def features(rng: np.random.Generator, count: int, shift: float = 0.0) -> torch.Tensor:
    """(count, 24), correlated, not negative and skewed, as pooled activations are."""
    return torch.from_numpy(np.maximum(rng.normal(size=(count, 24)) @ MIX, 0) + shift)


def covered(intervals: list[Distance], truth: float) -> float:
    return np.mean([interval.low <= truth <= interval.high for interval in intervals])


# Kernel distance


def test_kernel_distance_is_the_mmd_of_torchmetrics():
    x, y = torch.randn(30, 12).double(), torch.randn(30, 12).double() * 1.3
    assert kernel_distance(x, y, num_halves=2).value == pytest.approx(poly_mmd(x, y).item(), rel=1e-9)


def test_kernel_distance_of_sets_of_different_sizes_is_its_definition(monkeypatch):
    monkeypatch.setattr("models.metrics.distances.CHUNK", 3)
    x, y = torch.randn(7, 5).double(), torch.randn(11, 5).double()

    def mean_kernel(a, b):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if a is not b or i != j]
        return np.mean([(float(a[i] @ b[j]) / 5 + 1) ** 3 for i, j in pairs])

    expected = mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)
    assert kernel_distance(x, y, num_halves=2).value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n, m", [(8, 8), (6, 40)])
def test_kernel_distance_of_equal_distributions_is_zero_on_average_at_any_size(n, m):
    rng = np.random.default_rng(0)
    values = [kernel_distance(features(rng, n), features(rng, m), num_halves=2).value for _ in range(800)]
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert min(values) < 0


@pytest.mark.parametrize("shift, n, m", [(0, 24, 24), (0.4, 24, 24), (0.4, 16, 100)])
def test_the_interval_of_the_kernel_distance_holds_the_truth_in_90_to_100_of_100_cases(shift, n, m):
    rng = np.random.default_rng(0)
    large = features(rng, 2500, shift), features(rng, 2500)
    truth = kernel_distance(*large, num_halves=1).value if shift else 0.0
    intervals = [kernel_distance(features(rng, n, shift), features(rng, m), num_halves=100) for _ in range(200)]
    assert covered(intervals, truth) >= 0.9
    if shift:
        assert np.mean([interval.low > 0 for interval in intervals]) > 0.9  # and is narrow enough to be of use


# Frechet distance


def test_frechet_distance_is_that_of_torchmetrics():
    rng = np.random.default_rng(0)
    x, y = features(rng, 200, 0.3), features(rng, 150)
    moments = [moment for z in (x, y) for moment in (z.mean(dim=0), z.T.cov())]
    assert frechet_distance(x, y, num_halves=2).value == pytest.approx(_compute_fid(*moments).item(), rel=1e-6)


def test_frechet_distance_of_gaussians_of_one_dimension():
    x = torch.randn(5000, 1).double()
    mean, std = x.mean().item(), x.std().item()
    y = (x - mean) * (3 / std) + mean + 4
    assert frechet_distance(x, y, num_halves=2).value == pytest.approx(16 + (3 - std) ** 2, rel=1e-6)


def test_frechet_distance_with_fewer_clips_than_features():
    x, y = torch.randn(20, 300).double(), torch.randn(12, 300).double() + 1
    assert frechet_distance(x, x, num_halves=2).value == pytest.approx(0, abs=1e-6)
    a, b = (torch.linalg.eigh(z.T.cov()) for z in (x, y))
    root = a.eigenvectors * a.eigenvalues.clamp(min=0).sqrt() @ a.eigenvectors.T
    inner = root @ y.T.cov() @ root
    trace = torch.linalg.eigvalsh(inner).clamp(min=0).sqrt().sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + a.eigenvalues.sum() + b.eigenvalues.sum() - 2 * trace
    assert frechet_distance(x, y, num_halves=2).value == pytest.approx(expected.item(), rel=1e-4)


def test_frechet_distance_is_biased_by_small_sets_and_the_kernel_distance_is_not():
    rng = np.random.default_rng(0)
    frechet = [
        np.mean([frechet_distance(features(rng, n), features(rng, n), 2).value for _ in range(30)]) for n in (8, 32)
    ]
    assert frechet[0] > 2 * frechet[1] > 0


def test_the_interval_of_the_frechet_distance_holds_its_mean_at_this_size():
    rng = np.random.default_rng(0)
    intervals = [frechet_distance(features(rng, 20, 0.4), features(rng, 40), num_halves=30) for _ in range(150)]
    assert covered(intervals, np.mean([interval.value for interval in intervals])) >= 0.9


# Both


@pytest.mark.parametrize("distance", [kernel_distance, frechet_distance])
def test_the_same_features_give_the_same_numbers(distance):
    x, y = torch.randn(12, 6), torch.randn(9, 6)
    assert distance(x, y) == distance(x.clone(), y.clone())
    result = distance(x, y)
    assert result.low <= result.value <= result.high


@pytest.mark.parametrize("distance", [kernel_distance, frechet_distance])
def test_features_that_cannot_be_compared_are_named(distance):
    x = torch.randn(8, 6)
    with pytest.raises(ValueError, match="generated.*at least 4"):
        distance(x[:3], x)
    with pytest.raises(ValueError, match="generated has 6 features per clip, real has 5"):
        distance(x, x[:, :5])
    with pytest.raises(ValueError, match="real: features of 1 clips are not numbers"):
        distance(x, torch.cat([x, torch.full((1, 6), math.nan)]))


# Numbers of single clips


def test_student_intervals_hold_the_mean_in_95_of_100_cases():
    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 30):
        assert covered([mean_interval(rng.normal(size=n)) for _ in range(2000)], 0) == pytest.approx(0.95, abs=0.015)
    for values, quantile in ((np.arange(4.0), 3.1824), (np.arange(11.0), 2.2281)):  # from tables
        half = quantile * values.std(ddof=1) / math.sqrt(len(values))
        assert mean_interval(values).high - values.mean() == pytest.approx(half, rel=0.003)
    assert (mean_interval([3]).value, mean_interval([3]).low, mean_interval([3]).high) == (3, -math.inf, math.inf)


def test_shares_have_intervals_also_where_nothing_was_seen():
    none = share_interval([False] * 20)
    assert (none.value, none.low) == (0, 0) and none.high == pytest.approx(0.161, abs=0.001)  # Wilson, from tables
    assert share_interval([True] * 20).low == pytest.approx(1 - none.high)
    rng = np.random.default_rng(0)
    assert 0.92 < covered([share_interval(rng.random(30) < 0.2) for _ in range(1000)], 0.2) < 0.99


def test_medians_have_the_order_statistics_of_the_sign_test():
    sample = median_interval(range(1, 21))
    assert (sample.value, sample.low, sample.high) == (10.5, 6, 15)  # 95.9 %, from tables
    assert median_interval(range(5)).high == math.inf
    rng = np.random.default_rng(0)
    assert 0.945 < covered([median_interval(rng.exponential(size=25)) for _ in range(1000)], math.log(2)) < 0.99


def test_the_difference_of_two_means_has_an_interval():
    rng = np.random.default_rng(0)
    pairs = [(mean_interval(rng.normal(1, 3, 12)), mean_interval(rng.normal(0, 1, 40))) for _ in range(1000)]
    assert covered([difference(a, b) for a, b in pairs], 1) == pytest.approx(0.95, abs=0.02)
    skewed = difference(Distance("k", 5, 3, 9), Distance("k", 1, 0, 4))
    assert (skewed.value, skewed.low, skewed.high) == (4, 4 - math.hypot(2, 3), 4 + math.hypot(4, 1))


@pytest.mark.parametrize("interval", [mean_interval, share_interval, median_interval])
def test_there_is_no_interval_of_nothing(interval):
    with pytest.raises(ValueError, match="no values"):
        interval([])


# Ranking


def test_runs_whose_intervals_overlap_are_tied_and_others_ranked():
    runs = {
        "c": Distance("k", 5.0, 4.0, 6.0),
        "b": Distance("k", 3.5, 2.0, 5.0),
        "a": Distance("k", 2.0, 1.0, 3.0),
        "d": Distance("k", 9.0, 8.0, 10.0),
    }
    ranked = rank_runs(runs)
    assert [(run.rank, run.name, run.tied_with) for run in ranked] == [
        (1, "a", ("b",)),
        (1, "b", ("c", "a")),
        (2, "c", ("b",)),
        (4, "d", ()),
    ]
    assert "tie with b" in str(ranked[0]) and "tie" not in str(ranked[3])
    assert [run.name for run in rank_runs(runs, lower_is_better=False)] == ["d", "c", "b", "a"]
    assert rank_runs({}) == []


def test_a_number_that_is_none_is_no_better_than_any():
    ranked = rank_runs({"a": Distance("k", 1, 0, 2), "b": Distance("k", math.nan, math.nan, math.nan)})
    assert [(run.rank, run.tied_with) for run in ranked] == [(1, ("b",)), (1, ("a",))]


def test_distances_of_two_kinds_are_not_ranked():
    with pytest.raises(ValueError, match="one kind of distance can be ranked, not FVD, kernel distance"):
        rank_runs({"a": Distance("FVD", 1, 0, 2), "b": Distance("kernel distance", 1, 0, 2)})
