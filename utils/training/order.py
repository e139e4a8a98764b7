"""The order of samples and of random numbers: every random choice of a training follows from (seed, step)."""

from collections.abc import Iterator, Sequence
from heapq import heapify, heapreplace
from itertools import islice

import numpy as np
import torch
from torch.utils.data import Sampler


def seed_step(*numbers: int) -> None:
    """Seed torch's generators (CPU, CUDA) from (seed, step, ...), so that resuming at a step needs no saved state."""
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1)))


class EndlessSampler(Sampler):
    """Yields (epoch, index) for ever, each epoch a permutation that depends on (seed, epoch) alone.

    start: samples that all processes together have seen before. Process `rank` of `world_size` takes every
    world_size-th sample from `start + rank` on. A batch may reach from one epoch into the next, so no clip is left out.
    """

    def __init__(self, num_samples: int, seed: int, start: int = 0, rank: int = 0, world_size: int = 1):
        self.num_samples, self.seed, self.start = num_samples, seed, start
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        position, permuted_epoch, order = self.start + self.rank, None, None
        while True:
            epoch, offset = divmod(position, self.num_samples)
            if epoch != permuted_epoch:
                order, permuted_epoch = np.random.default_rng([self.seed, epoch]).permutation(self.num_samples), epoch
            yield epoch, int(order[offset])
            position += self.world_size


class BucketSampler(Sampler):
    """Yields (epoch, index) for ever, so that the samples of a batch, in all processes, are of one group of clips.

    groups: (indices of clips, share of all samples that comes of them); shares sum to 1. The clips of a group come in
    permutations of their own, each one's number is its `epoch`, and a batch may reach from one into the next. Batch j
    of a group is due at (j + r) / share, r in [0, 1) drawn for it: so at any time each group has had its share to
    within a batch, in an order without a rhythm. start, rank, world_size: as of EndlessSampler.
    """

    def __init__(
        self,
        groups: Sequence[tuple[Sequence[int], float]],
        batch_size: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.groups, self.batch_size, self.seed = [group for group in groups if group[1] > 0], batch_size, seed
        self.start, self.rank, self.world_size = start, rank, world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        together = self.batch_size * self.world_size
        orders = [(None, None)] * len(self.groups)
        for group, j in self._batches(self.start // together):
            clips = self.groups[group][0]
            for position in range(j * together + self.rank, (j + 1) * together, self.world_size):
                epoch, offset = divmod(position, len(clips))
                if orders[group][0] != epoch:
                    orders[group] = epoch, self._random(group, epoch, 0x0DE2).permutation(len(clips))
                yield epoch, int(clips[orders[group][1][offset]])

    def _batches(self, first: int) -> Iterator[tuple[int, int]]:
        """(group, number of its batch) of the batches from number `first` on."""
        time = max(0, first - len(self.groups) - 1)  # by then at most `first` batches have been due
        ahead, before = [], 0
        for group, (_, share) in enumerate(self.groups):
            j = int(time * share)
            j += self._due(group, j) < time
            ahead.append((self._due(group, j), group, j))
            before += j
        heapify(ahead)
        yield from islice(self._merged(ahead), first - before, None)

    def _merged(self, ahead: list[tuple[float, int, int]]) -> Iterator[tuple[int, int]]:
        while True:
            _, group, j = ahead[0]
            yield group, j
            heapreplace(ahead, (self._due(group, j + 1), group, j + 1))

    def _due(self, group: int, j: int) -> float:
        return (j + self._random(group, j, 0xD0E).random()) / self.groups[group][1]

    def _random(self, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *numbers])
