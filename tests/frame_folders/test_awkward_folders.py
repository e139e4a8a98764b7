"""Awkward folders and flags of prepare_dataset.py."""

import os
import re
import shutil
import subprocess
import sys
import time

import pytest

import prepare_dataset
from prepare_dataset import parse_args
from tests.clips import audio_only, cut, damage, encode, has_encoder, moving_clip
from tests.frame_folders.preparing import TREE, manifest, prepare
from utils.cli import UserError
from utils.decoding.read import read_frames
from utils.frame_folders import clip_writer
from utils.video.encode import write_gif


def test_every_awkward_file_is_converted_or_rejected_with_a_reason(tmp_path):
    """One folder with the files that break readers; none of them may stop the rest."""
    folder, output, clip = tmp_path / "in", tmp_path / "out", moving_clip(12)
    faststart = {"movflags": "+faststart"}
    folder.mkdir()
    for name, data in (
        ("v01.mp4", b""),
        ("v02.mp4", b"just some text"),
        ("v33.mp4", b"ffconcat version 1.0\nfile v10.mp4\n"),
        ("v34.mp4", b"#EXTM3U\nhttp://127.0.0.1:9/x.ts\n"),
        ("._x.mp4", b"hidden"),
        ("Thumbs.db", b"no video"),
    ):
        (folder / name).write_bytes(data)
    cut(encode(folder / "v03.mp4", clip), 0.7)
    cut(encode(folder / "v04.mp4", clip, container=faststart), 0)
    damage(encode(folder / "v05.mp4", moving_clip(30), options={"bf": "0", "g": "10"}), 20)
    audio_only(folder / "v07.mp4")
    encode(folder / "v08.mp4", clip[:1])
    encode(folder / "v10.mp4", clip)
    encode(folder / "v11.mkv", moving_clip(12, 37, 63), pix_fmt="yuv444p")
    encode(folder / "v12.mp4", moving_clip(12, 48, 64), rotation=270)
    encode(folder / "v13.mp4", moving_clip(10), ticks=[0, 33, 66, 100, 133, 166, 500, 833, 1166, 1500])
    encode(folder / "v15.mp4", moving_clip(13), pix_fmt="yuv420p10le")
    if has_encoder("libsvtav1"):
        encode(folder / "v17.mp4", clip, "libsvtav1")
    write_gif(folder / "v18.gif", clip, 10)
    write_gif(folder / "v18_one.gif", clip[:1], 10)
    encode(folder / "v19.mp4", clip, pix_fmt="gray")
    encode(folder / "v20.mov", clip, "qtrle", "argb")
    small, large = (encode(tmp_path / f"{w}.ts", moving_clip(8, 64, w), "mpeg2video", fps=25) for w in (64, 128))
    (folder / "v23.ts").write_bytes(small.read_bytes() + large.read_bytes())
    for n, name in enumerate(("猫 ü.mp4", "a\nb\x1b[2J.mp4", "-dash.mp4", "%02d.mp4", "a:b.mp4", "<b>&amp;.mp4")):
        encode(folder / "plain.mp4", moving_clip(14 + n)).rename(folder / name)
    encode(folder / "plain.mp4", moving_clip(21)).rename(folder / os.fsdecode(b"\xff.mp4"))
    (folder / "v26.mp4").symlink_to(tmp_path / "nowhere")
    (folder / "v26_loop.mp4").symlink_to(folder / "v26_loop.mp4")
    (folder / "v27.mp4").symlink_to(encode(tmp_path / "outside.mp4", moving_clip(22)))
    (folder / "v28.mp4").mkdir()
    os.mkfifo(folder / "v29.mp4")
    encode(folder / "v31.mp4", moving_clip(23))
    encode(folder / "v31.MOV", moving_clip(24))

    rows = prepare(folder, output)
    rejected = {source: row["rejected"] for source, row in rows.items() if "rejected" in row}
    assert rejected == {
        "v01.mp4": "empty file",
        "v02.mp4": "not a video",
        "v03.mp4": "truncated: no index (moov) can be read",
        "v04.mp4": "truncated: the header says 12 frames, 0 can be decoded",
        "v07.mp4": "no video stream",
        "v08.mp4": "fewer than 2 frames",
        "v18_one.gif": "fewer than 2 frames",
        "v26.mp4": "broken link",
        "v26_loop.mp4": "broken link",
        "v29.mp4": "not a regular file: a FIFO, socket or device",
        "v33.mp4": "not a video",
        "v34.mp4": "not a video",
    }
    kept = {source: row for source, row in rows.items() if "folder" in row}
    assert {"v31.mp4", "v31.MOV", "v27.mp4", "-dash.mp4", "a:b.mp4", "猫 ü.mp4", "\udcff.mp4"} < kept.keys()
    assert len(kept) == 20 + has_encoder("libsvtav1") and "._x.mp4" not in rows
    assert all(len(os.listdir(output / row["folder"])) == row["frames"] >= 8 for row in kept.values())
    page = (output / "report.html").read_text()
    assert "\x1b" not in page and "a\\nb\\x1b[2J.mp4" in page and "&lt;b&gt;&amp;amp;.mp4" in page
    assert page.count("<figure") == len(rows) and page.count('class="strip"') == len(kept)
    assert "http" not in page and "src=" not in page


def test_what_cannot_be_read_is_named_and_tried_again_the_next_time(videos, tmp_path, monkeypatch):
    real = clip_writer.probe_video

    def limited(path, **how):
        return real(path, 10 if path.name == "b.MKV" else 10**6, **how)

    monkeypatch.setattr(clip_writer, "probe_video", limited)
    rows = prepare(videos, tmp_path / "out")
    assert rows["b.MKV"]["rejected"] == "64x48 is more than the limit of 10 pixels" and "folder" in rows["d10.webm"]
    monkeypatch.undo()
    assert prepare(videos, tmp_path / "out")["b.MKV"]["frames"] == 24


def test_a_clip_that_fails_half_way_leaves_no_frames(videos, tmp_path, monkeypatch):
    def breaks(info, indices, look):
        yield from read_frames(info, list(indices)[:3])
        raise clip_writer.VideoError("frame 3 cannot be decoded: the file is damaged, or has changed")

    monkeypatch.setattr(clip_writer, "iter_frames", breaks)
    with pytest.raises(UserError, match="none of the videos"):
        prepare(videos, tmp_path / "out")
    assert [row["rejected"][:7] for row in manifest(tmp_path / "out").values()] == [
        *("frame 3", "frame 3", "not a v", "frame 3")
    ]
    assert not list((tmp_path / "out").rglob("*.png"))


@pytest.mark.parametrize("what", ["nothing", "only folders", "nothing usable", "a file"])
def test_a_folder_that_gives_no_clip_ends_with_status_2(tmp_path, what):
    folder = tmp_path / "in"
    if what == "a file":
        folder.write_text("x")
    else:
        (folder / "deeper").mkdir(parents=True)
        (folder / "deeper/a.mp4").write_bytes(b"")
        if what == "nothing usable":
            (folder / "a.mp4").write_bytes(b"")
    command = [sys.executable, "prepare_dataset.py", "--video_dir", str(folder), "--output_dir", str(tmp_path / "out")]
    result = subprocess.run(command, cwd=TREE, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "--video_dir" in result.stderr


def test_recursive_takes_the_videos_of_folders_and_names_them_by_path(videos, tmp_path):
    for name in ("x", "y"):
        (tmp_path / "in" / name).mkdir(parents=True)
    shutil.copy(videos / "a.mp4", tmp_path / "in/x/same.mp4")
    shutil.copy(videos / "b.MKV", tmp_path / "in/y/same.mkv")
    assert list(prepare(tmp_path / "in", tmp_path / "out", "--recursive")) == ["x/same.mp4", "y/same.mkv"]


def test_all_bad_flags_are_reported_together(tmp_path, capsys):
    flags = {
        **{"--max_frames": "0", "--min_frames": "1_0", "--target_fps": "nan", "--frame_stride": "-1", "--size": "512"},
        **{"--resize_mode": "zoom", "--format": "gif", "--keep": "good", "--motion": "cdf", "--num_workers": "-1"},
        **{"--shard": "3/2", "--max_samples": "0"},
    }
    argv = [word for flag in flags.items() for word in flag]
    with pytest.raises(SystemExit) as stop:
        parse_args(["--video_dir", str(tmp_path), "--output_dir", str(tmp_path / "out"), *argv])
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(lines) == len(flags)
    assert all(any(f"error: {flag}: got" in line for line in lines) for flag in flags)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--output_dir", "{videos}/dataset"], "--output_dir: .* lies in the data folder"),
        (["--output_dir", "{videos}/a.mp4"], "--output_dir: .* is a file"),
        (["--max_frames", "3", "--min_frames", "4"], "--max_frames: got 3"),
        (["--target_fps", "7", "--frame_stride", "2"], "--frame_stride: cannot be combined"),
        (["--video_dir", "nowhere"], "--video_dir: nowhere is no folder"),
        (["--shrad", "1/2"], "did you mean --shard"),
    ],
)
def test_flags_that_do_not_go_together_are_named(videos, tmp_path, capsys, flags, message):
    flags = [flag.format(videos=videos) for flag in flags]
    with pytest.raises(SystemExit) as stop:
        parse_args(["--video_dir", str(videos), "--output_dir", str(tmp_path / "out"), *flags])
    assert stop.value.code == 2 and re.search(message, capsys.readouterr().err)


def test_scenes_without_pyscenedetect_says_what_to_install(videos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(prepare_dataset.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        parse_args(["--video_dir", str(videos), "--output_dir", str(tmp_path / "out"), "--scenes"])
    assert "pip install scenedetect-headless" in capsys.readouterr().err


def test_help_is_instant_and_imports_nothing_heavy():
    code = (
        "import sys, prepare_dataset\ntry: prepare_dataset.parse_args(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit(bool({'torch', 'cv2', 'av', 'numpy', 'scenedetect'} & set(sys.modules)))"
    )
    times = []
    for _ in range(2):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], cwd=TREE, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    assert min(times) < 1.5  # about 0.1 s when the machine is idle
