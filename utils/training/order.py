"""The order of samples and of random numbers: every random choice of a training follows from (seed, step)."""

from collections.abc import Iterator

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
