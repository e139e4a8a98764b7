"""Kills, damage and changes between a checkpoint and what resumes from it: F1, F2, F8 to F12, F15 to F18."""

import os
import random
import shutil
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tests.faults.forked import Training, finished, forking, trainings
from tests.faults.place import Place, row
from utils.runs.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from utils.runs.run_folder import list_checkpoints, lock_run

MORE = ("--resume", "latest", "--max_train_steps", 5)  # a run of four steps goes on for one


def same(one: Path, other: Path) -> bool:
    """Whether two checkpoints hold the same, bit for bit."""
    (a, state), (b, other_state) = load_checkpoint(one), load_checkpoint(other)
    equal = all(torch.equal(a[group][name], b[group][name]) for group in a | b for name in a[group] | b[group])
    return equal and state == other_state


# Kills


@row(
    "F1",
    "kill -9 in the middle of steps: the same command goes on from the newest checkpoint, to the same losses",
    slow=True,
)
def f1(place: Place) -> str:
    rng, flags = random.Random(0), ("--max_train_steps", 100_000, "--checkpoint_every", 3, "--resume", "auto")
    kills, lost = 0, 0
    for training, whole in zip(trainings(place), trainings(place, "whole"), strict=True):
        done = 0
        for _ in range(3):
            script = training.start(*flags)
            script.until(lambda training=training, done=done: max(training.losses(), default=0) > done + 3)
            time.sleep(rng.uniform(0, 0.3))
            script.signal(signal.SIGKILL).end().ended(-signal.SIGKILL)
            done, newest = max(training.losses()), training.saved()[0]
            kills, lost = kills + 1, max(lost, done - newest)
            assert done - newest <= 3, f"{done - newest} steps are lost"
        script = training.start(*flags)
        script.until(lambda training=training, done=done: max(training.losses()) > done)
        script.signal(signal.SIGTERM).end().ended(143, "resuming from")
        assert training.hidden() == []
        assert [row["step"] for row in training.rows()] == list(range(1, training.saved()[0] + 1)), "steps logged twice"
        script = whole.start(*flags)
        script.until(lambda training=training, whole=whole: whole.losses().keys() >= training.losses().keys())
        script.signal(signal.SIGKILL).end()
        expected = {step: loss for step, loss in whole.losses().items() if step in training.losses()}
        assert training.losses() == expected, "the losses differ from those of a run that was not killed"
    return f"{kills} kills, {lost} steps lost at most with a checkpoint every 3, losses bit for bit the same"


def some_tensors(step: int) -> dict:
    return {"unet": {"a": torch.full((4096,), float(step))}, "ema": {"0": torch.full((4096,), -float(step))}}


def save_and_die(run_dir: Path, step: int, after: int | None) -> None:
    """Save a checkpoint, and be killed before the operation number `after` on a file that takes."""
    events = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "shutil.rmtree")
    count = 0

    def strike(event: str, arguments: tuple) -> None:
        nonlocal count
        count += event in events
        if event in events and count == after:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(strike)
    save_checkpoint(run_dir, step, some_tensors(step), {"step": step}, keep=2)


def forked(function: Callable, *arguments) -> int:
    """The exit status of a process that does this."""
    process = forking.Process(target=function, args=arguments)
    process.start()
    process.join()
    return process.exitcode


@row("F2", "kill -9 before each operation of a save: the checkpoint before or the new one is whole, and no rest stays")
def f2(place: Place) -> str:
    outcomes = []
    for replaced in (False, True):  # a checkpoint of the same step in the way, which a resumed run is to replace
        for after in range(1, 1000):
            run_dir = place.folder / f"{replaced}{after}"
            for step in (1, 2, 3) if replaced else (1, 2):
                save_checkpoint(run_dir, step, some_tensors(step), {"step": step}, keep=3)
            status = forked(save_and_die, run_dir, 3, after)
            assert forked(lock_run, run_dir) == 0
            assert [path.name for path in run_dir.iterdir() if path.name[0] == "."] == [".lock"]
            newest = list_checkpoints(run_dir)[0]
            tensors, state = load_checkpoint(newest)
            assert state["step"] in (2, 3) and torch.equal(tensors["ema"]["0"], some_tensors(state["step"])["ema"]["0"])
            for folder in list_checkpoints(run_dir):
                load_checkpoint(folder)
            outcomes.append(state["step"])
            if status == 0:
                break
            assert status == -signal.SIGKILL
        assert state["step"] == 3 and len(list_checkpoints(run_dir)) == 2
    assert {2, 3} == set(outcomes)
    return f"{len(outcomes) - 2} kills, {outcomes.count(2)} times the one before is the newest, all whole"


# Damage


def cut(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) - max(1, len(data) // 1000)])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1 << 4
    file.write_bytes(data)


def passed_over(place: Place, damages: tuple, struck: str) -> str:
    """Every file of the newest checkpoint, damaged in each of these ways, makes a run go on from the one before.

    All of them as newest_checkpoint sees it, and one (`struck`) for each trainer as its user does.
    """
    count = 0
    for training in finished(place):
        newest = list_checkpoints(training.run_dir)[0]
        for name in sorted(path.name for path in newest.iterdir()):
            for damage in damages:
                whole = (newest / name).read_bytes()
                damage(newest / name)
                folder, _, _ = newest_checkpoint(training.run_dir)
                assert folder != newest, f"{name} was trusted after {damage.__name__}"
                (newest / name).write_bytes(whole)
                count += 1
        damages[0](next(newest.glob(struck)))
        said = training.run(*MORE).done("warning: passing over", str(newest), "resuming from").said
        warning = next(line for line in said.splitlines() if line.startswith("warning: passing over"))
        assert f"resuming from {training.run_dir}/checkpoint-00000002" in said
        assert training.saved() == [5, 2] and (training.run_dir / f"damaged-{newest.name}").is_dir()
    return f"{count} of {count} noticed; {warning}"


@row("F8", "a file of the newest checkpoint is cut: it is passed over by name and the run goes on from the one before")
def f8(place: Place) -> str:
    return passed_over(place, (cut, empty), "optimizer.*")


@row("F9", "a bit of the newest checkpoint has flipped: the same")
def f9(place: Place) -> str:
    return passed_over(place, (flip,), "ema.*")


@row("F10", "the newest checkpoint lacks a file: the same")
def f10(place: Place) -> str:
    return passed_over(place, (Path.unlink,), "state.json")


@row("F11", "all checkpoints are damaged: refused with a reason for each, whatever --resume says; never started over")
def f11(place: Place) -> str:
    for training in finished(place):
        for folder, damage in zip(list_checkpoints(training.run_dir), (flip, cut), strict=True):
            damage(folder / "optimizer.safetensors")
        before = training.losses()
        for resume in ("auto", "latest", training.run_dir):
            outcome = training.run("--resume", resume, "--max_train_steps", 5)
            said = outcome.refused("--resume", "00000004/optimizer", "00000002/optimizer", "SHA-256")
        assert training.losses() == before
    return said


@row("F12", "--resume names a checkpoint that is not there, or that is damaged: refused with those that are there")
def f12(place: Place) -> str:
    for training in finished(place):
        newest, older = list_checkpoints(training.run_dir)
        flip(newest / "ema.safetensors")
        training.run("--resume", newest, "--max_train_steps", 5).refused("--resume", newest.name, older.name)
        for missing in (training.run_dir / "checkpoint-00000999", "step-999"):
            said = training.run("--resume", missing).refused("--resume", str(missing), str(newest), str(older))
        assert len(training.losses()) == 4
    return said


# What a step and a run consist of


def term_in_the_second_of_three() -> None:
    """Patch the accelerator so that SIGTERM comes in the second batch of the second step of three batches."""
    from accelerate import Accelerator

    backward, calls = Accelerator.backward, []

    def signalled(self, loss, **kwargs):
        calls.append(loss)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return backward(self, loss, **kwargs)

    Accelerator.backward = signalled


@row(
    "F15",
    "SIGTERM between the batches of a step: the step is finished, and the resumed run equals a whole one",
    slow=True,
)
def f15(place: Place) -> str:
    flags = ("--gradient_accumulation_steps", 3, "--max_train_steps", 4, "--resume", "auto")
    for training, whole in zip(trainings(place), trainings(place, "whole"), strict=True):
        training.run(*flags, patch="tests.faults.stops.checkpoints:term_in_the_second_of_three").ended(
            143, "after step 2 of"
        )
        assert training.saved() == [2]
        training.run(*flags).done("resuming from")
        whole.run(*flags).done()
        assert training.losses() == whole.losses()
        assert same(list_checkpoints(training.run_dir)[0], list_checkpoints(whole.run_dir)[0])
    return "saved at step 2, the checkpoints at step 4 are the same bit for bit"


def wandb_log(folder: Path) -> list[int]:
    """The steps in the log of an offline run of wandb, in the order they were written."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("*.wandb")
    data, position, block, steps, parts = file.read_bytes(), 7, 1 << 15, [], b""
    while position + 7 <= len(data):  # the log format of LevelDB: pieces of records in blocks of 32 KB
        if -position % block < 7 and position % block:
            position += -position % block
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or its last piece
            history = Record.FromString(parts).history.item
            items = {item.key or ".".join(item.nested_key): item.value_json for item in history}
            steps += [int(items["_step"])] if "train/loss" in items else []
            parts = b""
    return steps


@row(
    "F16",
    "wandb, offline: the resumed run has the id of the first, its steps go on and none is logged twice",
    slow=True,
)
def f16(place: Place) -> str:
    for training in trainings(place):
        flags = ("--report_to", "wandb", "--checkpoint_every", 2, "--resume", "auto", "--max_train_steps")
        for steps in (2, 4):
            place.run(training.trainer, *training.argv, "--output_dir", training.run_dir, *flags, steps).done()
        runs = sorted((training.run_dir / "wandb").glob("offline-run-*"))
        ids = [run.name.split("-")[-1] for run in runs]
        assert len(ids) == 2 and ids[0] == ids[1], ids
        assert [wandb_log(run) for run in runs] == [[1, 2], [3, 4]], [wandb_log(run) for run in runs]
    return f"id {ids[0]} twice, steps 1 and 2, 3 and 4"


# Other settings, other clips


@row("F17", "settings that change the result are refused at resume as old -> new, others are taken with a line")
def f17(place: Place) -> str:
    other = {
        "train_text2video": {
            "num_frames": (4, 5),
            "frame_size": (16, 32),
            "model_channels": (16, 32),
            "prediction_type": ("sample", "v_prediction"),
        },
        "train_svd": {
            "num_frames": (3, 4),
            "width": (64, 128),
            "trainable": ("temporal", "all"),
            "loss": ("edm", "eps"),
        },
    }
    for training in finished(place):
        changes = other[training.trainer]
        flags = [word for name, (_, new) in changes.items() for word in (f"--{name}", new)]
        shown = [f"--{name} {old} -> {new}" for name, (old, new) in changes.items()]
        refused = training.run(*MORE, *flags).refused("--resume", *shown)
        assert training.saved() == [4, 2]
        free = ("--num_workers", 1, "--checkpoint_every", 7, "--log_every", 2, "--wandb_project", "other")
        said = training.run(*MORE, *free).done("--num_workers 0 -> 1", "--checkpoint_every 2 -> 7").said
        (line,) = [line for line in said.splitlines() if "--num_workers 0" in line]
        assert "--max_train_steps 4 -> 5" in line and "--resume" not in line, line
    return refused


def change_clips(training: Training, place: Place) -> Path:
    """A copy of the trainer's data in which one clip was removed, one replaced and one added."""
    source = place.shared.data if training.trainer == "train_text2video" else place.shared.frames
    data = place.folder / f"changed_{training.trainer}"
    shutil.copytree(source, data, ignore=shutil.ignore_patterns(".*"))
    if training.trainer == "train_text2video":
        videos, captions = data / "videos", data / "captions"
        (videos / "clip_00001.mp4").unlink()
        (captions / "clip_00002.txt").write_text("something else")
        shutil.copy(videos / "clip_00003.mp4", videos / "new.mp4")
        shutil.copy(captions / "clip_00003.txt", captions / "new.txt")
    else:
        shutil.rmtree(data / "video_0001")
        shutil.copy(data / "video_0003" / "00001.png", data / "video_0002" / "00000.png")
        shutil.copytree(data / "video_0003", data / "new")
    return data


@row(
    "F18",
    "clips added, removed and changed are refused at resume by name, and taken with --allow_dataset_change",
)
def f18(place: Place) -> str:
    for training in finished(place):
        flag = "--data_dir" if training.trainer == "train_text2video" else "--dataset_dir"
        names = ("clip_00001.mp4", "clip_00002.mp4", "new.mp4")
        names = names if flag == "--data_dir" else ("video_0001", "video_0002", "new")
        moved = shutil.copytree(place.shared.data if flag == "--data_dir" else place.shared.frames, place.folder / flag)
        training.run(*MORE, flag, moved).done("done: ")
        data = change_clips(training, place)
        more = (flag, data, "--resume", "latest", "--max_train_steps", 6)
        said = training.run(*more).refused(
            flag, f"1 added ({names[2]})", f"1 removed ({names[0]})", names[1], "--allow_dataset_change"
        )
        assert training.saved()[0] == 5
        training.run(*more, "--allow_dataset_change").done("the clips have changed: 1 added", "drawn anew")
    return said
