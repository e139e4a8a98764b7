"""Processes that read clips, F24 to F27: killed, hanging, without shared memory, with files that are gone."""

import ctypes
import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.utils.data import get_worker_info

from tests.faults.place import Ended, Place, row
from tests.faults.scripts import TRAINERS, out, run
from tests.table import NotRun
from utils.checkpoint import load_checkpoint
from utils.readable import ReadableClips
from utils.run_folder import list_checkpoints
from utils.training import read_metrics

ONE_WORKER = ("--num_workers", 1, "--gradient_accumulation_steps", 1)
ONE_CLIP = {"train_text2video": ("--batch_size", 1), "train_svd": ()}


def at_sample(number: int, what) -> None:
    """Let something happen in a worker when it is asked for its n-th sample."""
    getitem, count = ReadableClips.__getitem__, 0

    def counted(self, key):
        nonlocal count
        count += get_worker_info() is not None
        if count == number and get_worker_info():
            what(self.path(key[1] if isinstance(key, tuple) else key))
        return getitem(self, key)

    ReadableClips.__getitem__ = counted


def die(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang(path: Path) -> None:
    print(f"\nhangs on {path.name}\n", file=sys.stderr, flush=True)
    time.sleep(1000)


def a_worker_is_killed() -> None:
    at_sample(4, die)


def a_worker_is_killed_between_optimizer_and_average() -> None:
    from diffusers.training_utils import EMAModel

    step, count = EMAModel.step, 0

    def killing(self, parameters):
        nonlocal count
        count += 1
        if count == 2:
            multiprocessing.active_children()[0].kill()
            time.sleep(0.3)
        step(self, parameters)

    EMAModel.step = killing


def a_worker_hangs() -> None:
    import utils.batches

    utils.batches.WORKER_TIMEOUT = 2
    at_sample(4, hang)


def saved_and_continued(place: Place, script: str, ended: Ended, expected: dict) -> int:
    """What was finished was saved, and the training goes on from there as if nothing had happened. Returns the step."""
    run_dir = out(place, script)
    step = read_metrics(run_dir / "metrics.jsonl")[-1]["step"]
    assert step >= 1 and f"--resume {run_dir} continues after step {step}" in ended.error, ended.error
    assert [load_checkpoint(folder)[1]["step"] for folder in list_checkpoints(run_dir)] == [step]
    run(place, script, *ONE_CLIP[script], "--resume", "latest", fresh=False).done("done: ")
    same(final_tensors(place, script), expected)
    return step


def final_tensors(place: Place, script: str) -> dict[str, torch.Tensor]:
    tensors, _ = load_checkpoint(list_checkpoints(out(place, script))[0])
    return {f"{group} {name}": tensor for group, named in tensors.items() for name, tensor in named.items()}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    differ = [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)]
    assert found.keys() == expected.keys() and not differ, f"{len(differ)} tensors differ, such as {differ[:3]}"


@row("F24", "a worker that is killed ends the training with status 2, and what was finished is saved, whole", slow=True)
def f24(place: Place) -> str:
    for script in TRAINERS:
        run(place, script, *ONE_CLIP[script]).done("done: ")
        expected = final_tensors(place, script)
        for patch in (a_worker_is_killed, a_worker_is_killed_between_optimizer_and_average):
            ended = run(place, script, *ONE_CLIP[script], *ONE_WORKER, patch=patch)
            said = ended.refused("--num_workers: a worker died", "--num_workers 0", "--shm-size")
            step = saved_and_continued(place, script, ended, expected)
    return f"after step {step}: {said}"


@row("F25", "a worker that hangs ends the training in time, names its clip, and what was finished is saved", slow=True)
def f25(place: Place) -> str:
    for script in TRAINERS:
        run(place, script, *ONE_CLIP[script]).done("done: ")
        expected = final_tensors(place, script)
        started = time.monotonic()
        ended = run(place, script, *ONE_CLIP[script], *ONE_WORKER, patch=a_worker_hangs)
        seconds = time.monotonic() - started
        name = ended.said.partition("hangs on ")[2].splitlines()[0]
        said = ended.refused("--num_workers: a worker", f"reads {name} has not answered for 2 s", "--num_workers 0")
        assert seconds < 60, f"{seconds:.0f} s"
        assert saved_and_continued(place, script, ended, expected) == 3
    return f"{seconds:.0f} s in all; {said}"


def shared_memory_of_256_kb() -> None:
    mount_shared_memory("256k")


def no_process_more() -> None:
    def start(_):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    multiprocessing.context.Process.start = start


def mount_shared_memory(size: str) -> None:
    """Another /dev/shm, for this process alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_mounts, private_and_below = 0x20000, 0x44000
    assert libc.unshare(new_mounts) == 0
    assert libc.mount(b"none", b"/", None, private_and_below, None) == 0
    assert libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, f"size={size}".encode()) == 0


@row("F26", "too little shared memory is explained, with the flags that help", slow=True)
def f26(place: Place) -> str:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        raise NotRun("mounting a small /dev/shm is not permitted here")
    large = {
        "train_text2video": ("--frame_size", 32, "--num_frames", 6, "--batch_size", 8),
        "train_svd": ("--no_cache", "--width", 128, "--height", 128),
    }
    for script in TRAINERS:
        started = time.monotonic()
        ended = run(place, script, *large[script], *ONE_WORKER, patch=shared_memory_of_256_kb)
        said = ended.refused("--num_workers", "/dev/shm", "--shm-size", "--num_workers 0")
        assert time.monotonic() - started < 60, f"{time.monotonic() - started:.0f} s"
        run(place, script, *large[script], patch=shared_memory_of_256_kb).done("done: ")  # without workers: enough
        run(place, script, *ONE_WORKER, patch=no_process_more).refused("--num_workers: workers cannot be started")
    return said
