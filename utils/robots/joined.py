"""Real and generated clips in one training: each has its share, however many there are of either."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from utils.data.readable import ReadableClips


class JoinedClips(ReadableClips):
    """Samples of several datasets, one behind the other. parts: (a ReadableClips, share of all samples), shares that
    sum to 1."""

    def __init__(self, *parts: tuple[ReadableClips, float]):
        self.parts = [part for part, _ in parts]
        self.shares = [share for _, share in parts]
        self.ends = list(accumulate(len(part) for part in self.parts))
        bad = None if self.parts[0].max_unreadable is None else sum(part.max_unreadable for part in self.parts)
        super().__init__(self.parts[0].seed, bad)

    def __len__(self) -> int:
        return self.ends[-1]

    def read(self, key: int | tuple[int, int]) -> dict:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        part, begin = self._part(index)
        return part.read((epoch, index - begin))

    def path(self, index: int) -> Path:
        part, begin = self._part(index)
        return part.path(index - begin)

    def groups(self) -> list[tuple[Sequence[int], float]]:
        begins = [0, *self.ends]
        return [
            ([begin + n for n in indices], share * of_part)
            for part, share, begin in zip(self.parts, self.shares, begins, strict=False)
            for indices, of_part in part.groups()
        ]

    def _part(self, index: int) -> tuple[ReadableClips, int]:
        number = next(n for n, end in enumerate(self.ends) if index < end)
        return self.parts[number], self.ends[number] - len(self.parts[number])
