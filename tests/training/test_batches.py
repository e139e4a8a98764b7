"""Batches whatever becomes of the processes and the clips behind them, and steps whose numbers are none."""

import json
import math
import multiprocessing
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import utils.decoding.source
import utils.training.batches
from utils.cli import Diverged, out_of_memory
from utils.data.errors import DataError
from utils.data.readable import ReadableClips, UnreadableClip
from utils.runs.checkpoint import save_checkpoint
from utils.training.batches import BatchError, Batches, saved_first
from utils.training.divergence import MOST_SKIPPED, NumberGuard
from utils.training.order import EndlessSampler


class Clips(ReadableClips):
    """Seven clips, some of which cannot be read, or only after a long time."""

    def __init__(self, gone=(), slow=(), max_unreadable=7):
        super().__init__(seed=0, max_unreadable=max_unreadable)
        self.gone, self.slow = gone, slow

    def __len__(self):
        return 7

    def path(self, index):
        return f"clip{index}"

    def read(self, key):
        _, index = key if isinstance(key, tuple) else (None, key)
        if index in self.gone:
            raise UnreadableClip(f"clip{index}: gone")
        if index in self.slow:
            time.sleep(60)
        return {"path": f"clip{index}", "x": torch.tensor(index)}


class DecoderThreads(Clips):
    """The number of threads that a decoder would get where a clip is read."""

    def read(self, key):
        return {"threads": torch.tensor(utils.decoding.source._decoder_threads)}


def batches(clips, workers=0, start=0, **more):
    return Batches(clips, 1, workers, EndlessSampler(7, 0, start), **more)


def paths(some_batches, count):
    return [next(some_batches)["path"][0] for _ in range(count)]


@pytest.mark.parametrize("workers, cores, threads", [(0, 8, 0), (1, 8, 8), (3, 8, 2), (2, 2, 1), (3, 2, 1)])
def test_workers_share_the_cores_for_decoding(monkeypatch, workers, cores, threads):
    """0: as many as FFmpeg likes; the process that trains has no others beside it."""
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    some = batches(DecoderThreads(), workers)
    assert next(some)["threads"].item() == threads
    some.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_only_the_clip_that_is_gone_is_replaced_and_always_alike(workers, capfd):
    whole, replaced = paths(batches(Clips()), 21), paths(batches(Clips(gone=[3]), workers), 21)
    others = {a: b for a, b in zip(whole, replaced, strict=True) if a != b}
    assert set(others) == {"clip3"} and whole.count("clip3") == 3
    assert paths(batches(Clips(gone=[3]), workers, start=9), 12) == replaced[9:]
    assert capfd.readouterr().err.count("clip3: gone; another clip takes its place") == 2  # once in each of two runs


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_that_are_gone_are_an_error(workers):
    with pytest.raises(DataError, match="3 of 7 clips can no longer be read, --max_bad_fraction allows 2: clip"):
        paths(batches(Clips(gone=[1, 3, 5], max_unreadable=2), workers), 14)
    with pytest.raises(DataError, match=r"clip\d: gone; nor can the 6 others that were tried"):
        paths(batches(Clips(gone=range(7)), workers), 1)
    with pytest.raises(UnreadableClip, match="clip3: gone"):
        Clips(gone=[3], max_unreadable=None)[3]


def test_a_killed_worker_interrupts_nothing_but_the_wait_for_a_batch():
    some = batches(Clips(), workers=1)
    next(some)
    worker = multiprocessing.active_children()[0]
    worker.kill()
    while Path(f"/proc/{worker.pid}/stat").read_text().split()[2] != "Z":
        time.sleep(0.01)
    time.sleep(0.3)  # torch by itself would raise an error here
    with pytest.raises(BatchError, match="--num_workers: a worker died before clip"):
        paths(some, 7)


def test_a_worker_that_hangs_is_given_up_with_the_name_of_its_clip(monkeypatch):
    monkeypatch.setattr(utils.training.batches, "WORKER_TIMEOUT", 1)
    order = paths(batches(Clips()), 4)
    some = batches(Clips(slow=[int(order[3][4:])]), workers=1)
    assert paths(some, 3) == order[:3]
    with pytest.raises(BatchError, match=f"a worker that reads {order[3]} has not answered for 1 s"):
        next(some)
    for process in multiprocessing.active_children():
        process.kill()


def test_what_was_finished_is_saved_once_before_the_data_ends_a_run(tmp_path):
    def save():
        save_checkpoint(tmp_path, 3, {"a": {"b": torch.ones(1)}}, {}, keep=2)

    for finished, message in ((0, "there is no checkpoint yet"), (3, "continues after step 3"), (3, "after step 3")):
        with pytest.raises(BatchError, match=f"why; .*{message}"), saved_first(save, tmp_path, lambda n=finished: n):
            raise BatchError("why")
        save = pytest.fail if finished else save  # it is saved already
    with pytest.raises(ZeroDivisionError), saved_first(save, tmp_path, lambda: 5):
        raise ZeroDivisionError


def guard(tmp_path, scales=()):
    scales = list(scales)
    scaler = SimpleNamespace(get_scale=lambda: scales.pop(0)) if scales else None
    accelerator = SimpleNamespace(scaler=scaler, num_processes=1, process_index=0)
    some = batches(Clips(), keep=2)
    order = paths(some, 3)
    return NumberGuard(accelerator, some, tmp_path, seed=5), order


def test_the_clips_of_a_step_that_is_not_a_number_are_kept(tmp_path):
    numbers, order = guard(tmp_path)
    numbers.check(1, 0.5, 2.0, 0.1)
    assert not numbers.overflowed()
    for loss, norm in ((math.nan, 1.0), (math.inf, 1.0), (0.5, math.nan), (0.5, math.inf)):
        with pytest.raises(Diverged, match=f"step 9: .*clips {order[1]}, {order[2]} "):
            numbers.check(9, loss, norm, 0.1)
    about = json.loads((tmp_path / "crash" / "step-00000009" / "step.json").read_text())
    assert [batch["path"] for batch in about["micro_batches"]] == [order[1:2], order[2:3]] and about["seed"] == 5


def test_a_step_is_skipped_where_the_scale_falls_and_not_for_ever(tmp_path):
    numbers, _ = guard(tmp_path, scales=[4, 4, 4, 2, 2, 4])
    for step, expected in enumerate((False, True, False)):  # as it is, halved, doubled
        numbers.check(step, 0.5, math.inf, 0.1)
        assert numbers.overflowed() == expected
    assert numbers.skipped == 1
    numbers, _ = guard(tmp_path, scales=[2.0**-n for n in range(2 * MOST_SKIPPED + 2)])
    with pytest.raises(Diverged, match=f"skipped {MOST_SKIPPED + 1} steps in a row"):
        for step in range(2 * MOST_SKIPPED):
            numbers.check(step, 0.5, math.inf, 0.1)
            assert numbers.overflowed()
    assert numbers.skipped == MOST_SKIPPED + 1


def test_short_memory_is_known_by_its_words():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**50)
    assert "can't allocate memory" in out_of_memory(error.value)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried\nmore")) == "CUDA out of memory. Tried"
    assert out_of_memory(MemoryError()) == "MemoryError"
    assert out_of_memory(RuntimeError("shapes differ")) is None and out_of_memory(ValueError("out of memory")) is None
