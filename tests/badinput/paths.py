"""Paths and names of what is written, P1 to P10."""

import importlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.badinput.place import Place, row
from tests.clips import moving_clip
from utils.data.find_videos import find_videos
from utils.decoding.probe import probe_video

NOBODY = 65534


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, who may write anywhere."""
    before = os.getresuid()
    if before[0] == 0:
        os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(*before)


def drawn(place: Place, *prompts: str) -> str:
    """Each prompt becomes a video of its own in the output folder and nowhere else, the whole prompt beside it."""
    before = set(os.listdir(place.folder))
    place.generate("--prompts", *prompts).done(f"{len(prompts)} videos in")
    videos = sorted(place.out.glob("*.mp4"))
    assert set(os.listdir(place.folder)) - before == {"out"}, os.listdir(place.folder)
    assert not [path for path in place.out.iterdir() if path.is_dir()] and len(videos) == len(prompts)
    said = [json.loads(path.with_suffix(".json").read_text())["prompt"] for path in videos]
    assert said == [prompt.strip() for prompt in prompts]
    assert all(probe_video(path).frames == 4 and len(path.name.encode()) < 120 for path in videos)
    return ", ".join(path.name for path in videos[:2])


@row("P1", "a folder that cannot be written to is refused before the model is loaded")
def p1(place: Place) -> str:
    for script in ("generate_text2video", "train_svd"):  # while everything may be read
        importlib.import_module(script)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        place = Place(Path(folder, "row"), place.shared)
        closed = place.folder / "closed"
        closed.mkdir(0o555)
        with as_nobody():
            flags = ("--checkpoint", place.data, "--prompts", "x", "--output_dir", closed / "out")
            place.run("generate_text2video", *flags).refused("--output_dir", "cannot be written to")
            flags = ("--dataset_dir", place.data, "--output_dir", closed / "out")
            return place.run("train_svd", *flags).refused("--output_dir", "cannot be written to")


@row("P2", "a file given as the output folder is refused by every script")
def p2(place: Place) -> str:
    place.out.write_text("a file")
    place.train().refused("--output_dir", "is a file")
    place.train_svd().refused("--output_dir", "is a file")
    place.animate(place.shared.picture).refused("--output_dir", "is a file")
    place.run("video_dataset", "--output_dir", place.out).refused("--output_dir", "is a file")
    flags = ("--video_dir", place.data, "--output_dir", place.out)
    place.run("prepare_dataset", *flags).refused("--output_dir", "is a file")
    return place.generate("--prompts", "x").refused("--output_dir", "is a file, choose a folder")


@row("P3", "a prompt that reads like a path names a file in the output folder")
def p3(place: Place) -> str:
    return drawn(place, "../../x", "/etc/x", "C:\\x")


@row("P4", "prompts of 300 letters and of 270 bytes in 90 characters become short names, whole in the JSON file")
def p4(place: Place) -> str:
    return drawn(place, "a" * 300, "红" * 90)


@row("P5", "slashes, colons, patterns, quotes, line breaks, emoji, dots and device names are only text")
def p5(place: Place) -> str:
    return drawn(place, 'sl/ash: "quote" %02d\nnewline', "🎥", ".", "..", "CON", "\x1b[2J")


@row("P6", "the same prompt twice, and two that are spelt alike, become a file each")
def p6(place: Place) -> str:
    return drawn(place, "a red circle", "a red circle", "A red, circle!")


@row("P7", "an output folder that is or lies in the data is refused")
def p7(place: Place) -> str:
    for out in (place.data, place.data / "deeper"):
        flags = ("--video_dir", place.data, "--output_dir", out)
        place.run("prepare_dataset", *flags).refused("--output_dir", "lies in the data folder")
        flags = ("--data_dir", place.data, "--output_dir", out, "--preset", "tiny")
        said = place.run("train_text2video", *flags).refused("--output_dir", "lies in the data folder")
        flags = ("--dataset_dir", place.data, "--output_dir", out)
        place.run("train_svd", *flags).refused("--output_dir", "lies in the data folder")
    place.animate(place.data, "--output_dir", place.data).refused("--output_dir", "the folder of --input_image")
    return said


@row("P8", "a half-done dataset of frames is completed, one of other settings is refused, nothing old stays")
def p8(place: Place) -> str:
    place.clip("a.mp4", moving_clip(9))
    place.clip("b.mp4", moving_clip(8))
    place.prepare()
    frames = place.folder / "frames"
    (frames / "video_0001" / "00004.png").unlink()
    shutil.rmtree(frames / ".prepare" / "video_0002")
    (frames / "video_0002" / "00099.png").write_bytes(b"old")
    rows = place.prepare()
    counts = [len(os.listdir(frames / rows[name]["folder"])) for name in ("a.mp4", "b.mp4")]
    assert counts == [9, 8], f"frames {counts}"
    flags = ("--video_dir", place.data / "videos", "--output_dir", frames, "--max_frames", 5)
    return place.run("prepare_dataset", *flags).refused("--max_frames unset -> 5", "--overwrite")


@row("P9", "a folder of 100 000 files is listed in less than 5 s", slow=True)
def p9(place: Place) -> str:
    videos = place.data / "videos"
    for n in range(100_000):
        (videos / f"clip_{n}.mp4").touch()
    started = time.perf_counter()
    found = find_videos(videos)
    seconds = time.perf_counter() - started
    assert len(found) == 100_000 and found[2].name == "clip_2.mp4" and seconds < 5, f"{seconds:.1f} s"
    return f"{seconds:.1f} s"


@row("P10", "NUL, control characters and endless names typed at a question do no harm")
def p10(place: Place) -> str:
    lines = f"\0\nno\0where.pth\n{'x' * 5000}\n{place.shared.run_dir}\na \0red\x1b[2J circle\nquit\n"
    outcome = place.run(
        *("generate_text2video", "--output_dir", place.out, "--num_inference_steps", 1, "--mixed_precision", "no"),
        stdin=lines,
    )
    outcome.done("there is no file nowhere.pth", "File name too long")
    (sidecar,) = place.out.glob("*.json")
    assert json.loads(sidecar.read_text())["prompt"] == "a red[2J circle"
    assert "\0" not in outcome.out and "\x1b" not in outcome.out
    return f"asked again; then {sidecar.stem}.mp4"
