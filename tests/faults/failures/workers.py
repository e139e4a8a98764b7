"""Processes that read clips, F24 to F27: killed, hanging, without shared memory, with files that are gone."""

import ctypes
import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader, get_worker_info

from tests.faults.place import Ended, Place, row
from tests.faults.scripts import TRAINERS, copied, out, run, start
from tests.table import NotRun
from utils.data.readable import ReadableClips
from utils.frame_folders.frame_clips import FrameClips, find_frame_folders
from utils.logs.metrics import read_metrics
from utils.runs.checkpoint import load_checkpoint
from utils.runs.run_folder import list_checkpoints
from utils.training.batches import Batches
from utils.training.order import EndlessSampler
from video_dataset import TextVideoDataset

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
    import utils.training.batches

    utils.training.batches.WORKER_TIMEOUT = 2
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

    # Preparing a dataset saves every video.
    job = start(place, "prepare_dataset", "--num_workers", 2)
    job.until(lambda: any("spawn_main" in command for command in children(job.pid).values()))
    os.kill(next(pid for pid, command in children(job.pid).items() if "spawn_main" in command), signal.SIGKILL)
    job.end().refused("--num_workers: a process died", "run again")
    run(place, "prepare_dataset", fresh=False).done("8 clips")
    return f"after step {step}: {said}"


def children(pid: int) -> dict[int, str]:
    """{pid: command line} of a process's children."""
    found = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return {child: Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ") for child in found}


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


def once_training_begins(what) -> None:
    """Let something happen to the dataset after the clips were indexed and encoded, before the first batch."""
    init = DataLoader.__init__

    def after(self, dataset, *args, **kwargs):
        what(dataset)
        init(self, dataset, *args, **kwargs)

    DataLoader.__init__ = after


def a_clip_is_deleted() -> None:
    once_training_begins(lambda dataset: remove(dataset.path(2)))


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def a_clip_is_truncated() -> None:
    def truncate(path: Path) -> None:
        for file in path.iterdir() if path.is_dir() else [path]:
            os.truncate(file, 100)

    once_training_begins(lambda dataset: truncate(dataset.path(2)))


def a_disk_fails_for_one_clip() -> None:
    """An error of the disk, while the file stays as it is: the resumed training finds the same clips."""
    import utils.decoding.read
    import utils.frame_folders.frame_clips

    broken = []

    def failing(function):
        def read(where, *args, **kwargs):
            path = Path(getattr(where, "path", where))
            if {path, path.parent} & set(broken):
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return function(where, *args, **kwargs)

        return read

    utils.decoding.read.iter_frames = failing(utils.decoding.read.iter_frames)
    utils.frame_folders.frame_clips.read_image = failing(utils.frame_folders.frame_clips.read_image)
    once_training_begins(lambda dataset: broken.append(dataset.path(2)))


@row("F27", "a clip that is gone is replaced by what depends on seed, epoch, index; too many end the run", slow=True)
def f27(place: Place) -> str:
    # The samples: those of other clips stay where they were, with any number of workers, wherever the run is resumed.
    data, frames = (
        copied(place.shared.data, place.folder / "data"),
        copied(place.shared.frames, place.folder / "frames"),
    )
    folders, _ = find_frame_folders(frames, 3, 1, 7, None)
    datasets = (
        TextVideoDataset(data, 4, 16, max_bad_fraction=0.5, cache_bytes=0),
        FrameClips(folders, 3, 64, 64, max_unreadable=4),
    )

    def order(dataset, start: int = 0, workers: int = 0) -> list[str]:
        batches = Batches(dataset, 1, workers, EndlessSampler(len(dataset), 0, start))
        return [next(batches)["path"][0] for _ in range(24 - start)]

    for dataset in datasets:
        whole, gone = order(dataset), str(dataset.path(2))
        remove(dataset.path(2))
        replaced = order(dataset)
        other = [(a, b) for a, b in zip(whole, replaced, strict=True) if a != b]
        assert len(other) == 3 and {a for a, _ in other} == {gone} and len({b for _, b in other}) > 1, other
        assert replaced == order(dataset, workers=2) and replaced[11:] == order(dataset, start=11)

    for script in TRAINERS:
        # One clip of eight is more than 5 %.
        said = {}
        for patch in (a_clip_is_deleted, a_clip_is_truncated):
            ended = run(place, script, *own_data(place, script), patch=patch)
            said[patch] = ended.refused("clips can no longer be read", "--max_bad_fraction allows 0", "training began")
            # Half of them are allowed.
            flags = (*own_data(place, script), "--max_bad_fraction", 0.5, "--max_train_steps", 12)
            ended = run(place, script, *flags, patch=patch).done("done: ", "another clip takes its place")
            assert ended.said.count("another clip takes its place") == 1, ended.said

        # The same with workers, and after a stop.
        flags = ("--max_bad_fraction", 0.5, "--lr_scheduler", "constant")
        run(place, script, *flags, "--num_workers", 2, "--max_train_steps", 11, patch=a_disk_fails_for_one_clip).done()
        expected = final_tensors(place, script)
        run(place, script, *flags, "--max_train_steps", 8, patch=a_disk_fails_for_one_clip).done("another clip")
        more = ("--resume", "latest", "--max_train_steps", 11)
        run(place, script, *flags, *more, patch=a_disk_fails_for_one_clip, fresh=False).done("resuming")
        same(final_tensors(place, script), expected)
    return said[a_clip_is_deleted]


def own_data(place: Place, script: str) -> tuple:
    """Flags for a copy of the data that may be damaged."""
    if script == "train_svd":
        return "--dataset_dir", copied(place.shared.frames, place.folder / "frames")
    return "--data_dir", copied(place.shared.data, place.folder / "data")
