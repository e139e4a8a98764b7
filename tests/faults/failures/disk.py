"""Full disks, F6 and F7: one line that says what needs how much, nothing half-written, what was there stays."""

import contextlib
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from tests.badinput.place import KEEP_ALL
from tests.faults.forked import Script, Training, trainings
from tests.faults.place import Ended, Place, row
from tests.table import NotRun
from utils.decoding.probe import probe_video
from utils.files import PARTIAL


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes at `folder`. Raises NotRun where this process may not mount one."""
    folder.mkdir(parents=True)
    mount = ("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotRun(f"no file system can be mounted here ({error})") from None
    try:
        yield folder
    finally:
        subprocess.run(("umount", "--lazy", str(folder)), check=True)


def limited(size: int | str) -> None:
    """No file of this process can grow beyond `size` bytes: to a library it is as if the disk were full then."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def full_at_the_second_checkpoint() -> None:
    """Patch safetensors, so that the second checkpoint finds room for 3 MB a file: the moments do not fit."""
    from utils.runs import checkpoint

    save, written = checkpoint.save_file, set()

    def save_file(tensors, path, *args, **kwargs):
        written.add(Path(path).parent)
        limited(3_000_000 if len(written) > 1 else resource.RLIM_INFINITY)
        return save(tensors, path, *args, **kwargs)

    checkpoint.save_file = save_file


def fill_at_the_second_checkpoint() -> None:
    """Patch safetensors, so that something else fills the disk when the second checkpoint is begun."""
    from utils.runs import checkpoint

    save, written = checkpoint.save_file, set()

    def save_file(tensors, path, *args, **kwargs):
        if len(written | {Path(path).parent}) > 1 and len(written) == 1:
            disk = Path(path).parents[1]
            (disk / "other").write_bytes(b"0" * (shutil.disk_usage(disk).free - 3_000_000))
        written.add(Path(path).parent)
        return save(tensors, path, *args, **kwargs)

    checkpoint.save_file = save_file


def interrupted(training: Training, patch: str, *words: str) -> str:
    """A disk that is full at the second checkpoint, at step 4: refused, and the first is there to go on from."""
    flags = ("--max_train_steps", 6, "--checkpoint_every", 2, "--resume", "auto")
    said = training.run(*flags, patch=f"tests.faults.failures.disk:{patch}").refused(
        "checkpoint-00000004", "needs 7.", *words
    )
    assert training.saved() == [2] and training.hidden() == [], (training.saved(), training.hidden())
    (training.run_dir / "other").unlink(missing_ok=True)
    training.run(*flags).done("resuming from", "done: ")
    assert training.saved() == [6, 4]
    return said


@row(
    "F6",
    "a full disk: said before the first step, or at a checkpoint, of which nothing stays; the one before does",
    slow=True,
)
def f6(place: Place) -> str:
    for training in trainings(place):
        said = interrupted(training, "full_at_the_second_checkpoint", "largest possible file reached writing")
    try:
        with small_disk(place.out / "small", 40_000_000) as disk:
            for training in trainings(place, "full"):
                training.run_dir = disk / training.run_dir.name
                said = interrupted(training, "fill_at_the_second_checkpoint", "disk full writing", "3 MB are free")
                flags = ("--resume", "auto", "--max_train_steps", 7, "--checkpoints_total_limit", 5)
                for done in (6, 0):  # with the run as it is, and without it
                    training.run(*flags).refused("--output_dir", str(training.run_dir), "needs", "MB are free")
                    assert max(training.losses(), default=0) == done
                    shutil.rmtree(training.run_dir)
                    (disk / "other").write_bytes(b"0" * 10_000_000)
                (disk / "other").unlink()
    except NotRun as reason:
        said += f"; with limits of the size of files alone: {reason}"
    return said


def run_limited(place: Place, limit: int, script: str, *flags) -> Ended:
    """Run a script that can write no file beyond `limit` bytes; what it says goes into a pipe, which has no limit."""
    fifo = place.folder / f"{script}_{limit}.fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    status = Script(fifo, script, *flags, patch=f"tests.faults.failures.disk:limited:{limit}").end().status
    said = os.read(reader, 1 << 16).decode()
    os.close(reader)
    return Ended(status, said)


def broken(folder: Path) -> list[str]:
    """The files in a folder that are not whole, and what was to become a file."""
    found = [str(path) for path in folder.rglob(f"{PARTIAL}*")]
    for path in (path for path in folder.rglob("*") if path.is_file() and path.name[0] != "."):
        try:
            if path.suffix in (".mp4", ".gif"):
                assert probe_video(path).frames > 1
            elif path.suffix in (".png", ".jpg"):
                Image.open(path).load()
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".html":
                assert path.read_text().endswith("</html>\n")
        except (AssertionError, OSError, ValueError) as error:
            found.append(f"{path}: {error!r}")
    return found


@row(
    "F7",
    "a disk that is full at any file a script writes: refused by its name, nothing half-written, later it goes on",
    slow=True,
)
def f7(place: Place) -> str:
    shared, refusals = place.shared, 0
    size = ("--width", 64, "--height", 64, "--num_frames", 4, "--num_inference_steps", 1, "--seed", 1)
    extras = ("--save_gif", "--save_frames", "--visualize", "--output_dir")
    writers = {
        "generate_text2video": (
            *("--checkpoint", shared.run_dir, "--num_inference_steps", 1, "--mixed_precision", "no"),
            *("--prompts", "a red circle", "a blue square", *extras),
        ),
        "infer_svd": ("--model_dir", shared.svd, "--input_image", shared.picture, *size, *extras),
        "prepare_dataset": ("--video_dir", shared.data / "videos", "--num_workers", 0, *KEEP_ALL, "--output_dir"),
        "video_dataset": ("--num_clips", 3, "--num_frames", 4, "--frame_size", 32, "--output_dir"),
    }
    for script, flags in writers.items():
        for limit in (1, 500, 1500, 3000, 6000, 12_000):
            out = place.out / f"{script}{limit}"
            ended = run_limited(place, limit, script, *flags, out)
            if ended.status == 0:
                break
            said = ended.refused(str(place.out))
            refusals += 1
            assert broken(out) == [], broken(out)
            Script(place.folder / f"{out.name}.txt", script, *flags, out).end().done()
        assert limit > 1
    for training in trainings(place):
        steps = ("--max_train_steps", 2, "--resume", "auto")
        names = {100: "args.json", 1_000_000: "best_model.pth"}
        if training.trainer == "train_svd":
            names = {100: "args.json", 2000: "--cache_dir", 1_000_000: "checkpoint-00000002"}
            training.argv = (*training.argv, "--cache_dir", place.out / "cache")
        flags = (*training.argv, "--output_dir", training.run_dir, *steps)
        for limit, name in names.items():
            run_limited(place, limit, training.trainer, *flags).refused(name)
            refusals += 1
            assert training.hidden() == [] and broken(place.out / "cache") == []
    whole = [flag for flag in flags if flag != "--save_trainable_only"]
    run_limited(place, 4_500_000, "train_svd", *whole).refused("writing", str(training.run_dir), "MB")
    assert training.hidden() == [] and not (training.run_dir / "model_index.json").exists()
    Script(place.folder / "whole.txt", "train_svd", *whole).end().done("has its 2 steps already", "done: ")
    assert (training.run_dir / "model_index.json").exists()
    return f"{refusals} times, {said}"
