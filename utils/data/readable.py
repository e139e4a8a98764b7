"""Clips that can no longer be read in the middle of a run: replaced by others, named once, and the end of it if many.

A folder on a network that fails for a minute, or a file that somebody moved, should not cost a training of days.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from utils.cli import printable
from utils.data.errors import DataError

MOST_REPLACEMENTS = 10  # that are tried for one sample: if all of them fail, it is not the clips

# torch is imported where it is used: --help answers at once.


class UnreadableClip(DataError):
    """A clip that was readable when the run began and no longer is."""


class ReadableClips:
    """A dataset whose samples come from the clips that can be read.

    A subclass offers read(key), the sample of clip i for a key i or (epoch, i), which raises UnreadableClip; path(i),
    the name of a clip; and len(). With max_unreadable None, dataset[key] is read(key). Otherwise an unreadable clip is
    replaced by another one that follows from (seed, epoch, i) alone, so neither the number of workers nor a resumed run
    changes a sample; every sample gets an entry "unreadable", what it stands in for, as JSON {path: reason}. Raises
    DataError for more than max_unreadable different clips.
    """

    def __init__(self, seed: int, max_unreadable: int | None):
        self.seed, self.max_unreadable = seed, max_unreadable
        self.unreadable: dict[str, str] = {}  # {path: reason} of those that this process knows of

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        if self.max_unreadable is None:
            return self.read(key)
        epoch, index = key if isinstance(key, tuple) else (None, key)
        failures = {}
        for i in self._candidates(epoch or 0, index):
            try:
                sample = self.read(i if epoch is None else (epoch, i))
            except UnreadableClip as error:
                failures[str(self.path(i))] = str(error)
                continue
            if failures:
                self._report_in_main_process(failures)
            return {**sample, "unreadable": json.dumps(failures)}
        others = f"nor can the {len(failures) - 1} others that were tried"
        raise DataError(f"{next(iter(failures.values()))}; {others}: look at the disk and its network")

    def _candidates(self, epoch: int, index: int) -> Iterator[int]:
        """The clip itself, and if that is of no use others in an order that follows from (seed, epoch, index)."""
        yield index
        alike = next(clips for clips, _ in self.groups() if index in clips)
        order = np.random.default_rng([self.seed, epoch, index, 0xBAD]).permutation(len(alike))
        yield from (int(alike[i]) for i in order[: MOST_REPLACEMENTS + 1] if alike[i] != index)

    def groups(self) -> list[tuple[Sequence[int], float]]:
        """(indices of clips whose samples have the same shape, share of all samples that is to come of them)."""
        return [(range(len(self)), 1.0)]

    def _report_in_main_process(self, failures: dict[str, str]) -> None:
        from torch.utils.data import get_worker_info

        if get_worker_info() is None:  # a worker's samples carry their failures to the main process
            self.report_unreadable([json.dumps(failures)])

    def report_unreadable(self, of_samples: Iterable[str]) -> None:
        """Name each unreadable clip once. of_samples: their entries "unreadable"."""
        for failures in filter(None, map(json.loads, of_samples)):
            for path, reason in failures.items():
                if path not in self.unreadable:
                    print(f"\nwarning: {printable(reason)}; another clip takes its place", file=sys.stderr)
                    self.unreadable[path] = reason
        if len(self.unreadable) > self.max_unreadable:
            first = printable(next(iter(self.unreadable.values())))
            raise DataError(
                f"{len(self.unreadable)} of {len(self)} clips can no longer be read, --max_bad_fraction allows "
                f"{self.max_unreadable}: {first}"
            )


class DerivedClips(ReadableClips):
    """A dataset whose samples follow from the clips of another one, and come in their order and groups."""

    def __init__(self, clips):
        super().__init__(clips.seed, clips.max_unreadable)
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def path(self, index: int) -> Path:
        return self.clips.path(index)

    def groups(self) -> list[tuple[Sequence[int], float]]:
        return self.clips.groups()
