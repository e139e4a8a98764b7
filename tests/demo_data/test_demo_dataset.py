"""The demo dataset and its command line."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.data.folders import DEMO, TREE, demo
from utils.cli import UserError
from utils.data.find_videos import find_videos
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.demo_data import shapes
from video_dataset import main, parse_args


def test_no_arguments_write_the_documented_tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = parse_args([])
    assert (args.output_dir, args.num_clips, args.num_frames) == (Path("demo_video_data"), 1500, 16)
    folder = demo(args.output_dir)
    videos = find_videos(folder / "videos")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert len(videos) == len(rows) == 12
    for path, row in zip(videos, rows, strict=True):
        info = probe_video(path)
        assert (info.frames, info.width, info.height, info.fps) == (8, 32, 32, 8)
        assert (folder / "captions" / f"{path.stem}.txt").read_text().strip() == row["caption"]
        assert row["file"] == f"videos/{path.name}" and row["form"] in range(len(shapes.TRAIN_FORMS))
        assert np.shape(row["objects"][0]["path"]) == (8, 2)
    for name in ("seen_prompts.txt", "heldout_prompts.txt"):
        assert len((folder / name).read_text().splitlines()) == 48


def test_metadata_says_where_the_object_is(demo_dir):
    for line in (demo_dir / "metadata.jsonl").read_text().splitlines():
        row = json.loads(line)
        info = probe_video(demo_dir / row["file"])
        thing = row["objects"][0]
        for t, frame in enumerate(read_frames(info, range(8))):
            near = np.linalg.norm(frame.astype(float) - thing["rgb"], axis=-1) < 90
            y, x = np.argwhere(near).mean(axis=0) + 0.5
            assert np.hypot(x - thing["path"][t][0], y - thing["path"][t][1]) < 1.5


def test_same_seed_writes_the_same_bytes_and_another_seed_does_not(demo_dir, tmp_path):
    def contents(folder):
        return {
            str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name[0] != "."
        }

    again, other = demo(tmp_path / "again"), demo(tmp_path / "other", "--seed", "1")
    assert contents(demo_dir) == contents(again)
    assert contents(again)["videos/clip_00000.mp4"] != contents(other)["videos/clip_00000.mp4"]


def test_finished_dataset_is_left_alone_and_other_settings_need_overwrite(tmp_path, capsys):
    folder = demo(tmp_path / "demo")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    demo(folder)
    assert "left alone" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    args = ["--output_dir", str(folder), *DEMO, "--num_clips", "5"]
    with pytest.raises(UserError, match="num_clips 12 -> 5.*--overwrite"):
        main(parse_args(args))
    main(parse_args([*args, "--overwrite"]))
    assert len(list((folder / "videos").iterdir())) == len(list((folder / "captions").iterdir())) == 5


def test_half_written_dataset_is_completed_and_foreign_files_are_refused(tmp_path):
    folder = demo(tmp_path / "demo")
    whole = (folder / "videos/clip_00003.mp4").read_bytes()
    (folder / "dataset.json").unlink()
    (folder / "videos/clip_00003.mp4").write_bytes(b"half")
    demo(folder)
    assert (folder / "videos/clip_00003.mp4").read_bytes() == whole
    (folder / "videos/holiday.mp4").write_bytes(b"mine")
    with pytest.raises(UserError, match="holiday.mp4"):
        main(parse_args(["--output_dir", str(folder), *DEMO, "--overwrite"]))
    assert (folder / "videos/holiday.mp4").read_bytes() == b"mine"


def test_all_bad_flags_are_reported_together(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_args(["--num_clips", "0", "--num_frames", "1_0", "--frame_size", "33", "--fps", "nan", "--seed", "-1"])
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(lines) == 5
    assert all(": error: --" in line and "must be" in line for line in lines)


def test_help_is_instant_and_imports_nothing_heavy():
    code = (
        "import sys, video_dataset\ntry: video_dataset.parse_args(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit(bool({'torch', 'cv2', 'av'} & set(sys.modules)))"
    )
    times = []
    for _ in range(2):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], cwd=TREE, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    assert min(times) < 1.5  # about 0.2 s when the machine is idle
