"""Videos to frame folders: what is in them, what is refused, and that no interruption or division of work shows."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import prepare_dataset
from prepare_dataset import converted, main, parse_args
from tests.clips import audio_only, cut, damage, encode, has_encoder, moving_clip, panning_clip
from utils.cli import UserError
from utils.frame_folders import clip_writer
from utils.frame_folders.clip_writer import find_cut
from utils.video import decode
from utils.video.decode import VideoInfo, probe_video, read_frames
from utils.video.encode import write_gif, write_video
from utils.video.frame_windows import sample_segment
from utils.video.motion import STATIC_SCORE, motion_score

TREE = Path(prepare_dataset.__file__).parent


def prepare(videos: Path, output: Path, *flags: str, workers: int = 0) -> dict[str, dict]:
    """Run the script; {source: manifest row}."""
    argv = ["--video_dir", str(videos), "--output_dir", str(output), "--num_workers", str(workers), *flags]
    main(parse_args(argv))
    return manifest(output)


def manifest(output: Path) -> dict[str, dict]:
    rows = [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]
    return {row["source"]: row for row in rows}


def contents(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}


def frames_of(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Three clips that move at 1, 2 and 4 times a speed, of 20, 24 and 28 frames at 10 fps, and a file that is none."""
    folder = tmp_path_factory.mktemp("videos")
    for name, speed, count in (("a.mp4", 0.05, 20), ("b.MKV", 0.1, 24), ("d10.webm", 0.2, 28)):
        codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
        encode(folder / name, panning_clip(speed, count, height=48, width=64), codec)
    (folder / "d9.mp4").write_text("no video, only words")
    return folder


@pytest.fixture(scope="module")
def whole(videos, tmp_path_factory) -> Path:
    """The dataset of `videos`, made in one go."""
    output = tmp_path_factory.mktemp("whole") / "dataset"
    prepare(videos, output)
    return output


# Frames ---------------------------------------------------------------------------------------------------------------


def test_every_video_becomes_a_numbered_folder_of_exactly_its_frames(videos, whole):
    rows = manifest(whole)
    assert list(rows) == ["a.mp4", "b.MKV", "d9.mp4", "d10.webm"]  # natural order
    assert {row.get("folder") for row in rows.values()} == {"video_0001", "video_0002", None, "video_0004"}
    assert sorted(path.name for path in whole.iterdir() if path.is_dir()) == [
        *(".prepare", "video_0001", "video_0002", "video_0004")
    ]
    for source, row in rows.items():
        if "folder" in row:
            info = probe_video(videos / source)
            assert sorted(os.listdir(whole / row["folder"])) == [f"{n:05d}.png" for n in range(info.frames)]
            assert np.array_equal(frames_of(whole / row["folder"]), read_frames(info, range(info.frames)))


@pytest.mark.parametrize("limit", [1, 22, 25])
def test_max_frames_are_the_first_ones_or_all_there_are(videos, tmp_path, limit):
    rows = prepare(videos, tmp_path / "out", "--max_frames", str(limit), "--min_frames", "1")
    for source, count in (("a.mp4", 20), ("b.MKV", 24), ("d10.webm", 28)):
        frames = frames_of(tmp_path / "out" / rows[source]["folder"])
        assert rows[source]["frames"] == len(frames) == min(limit, count)
        assert np.array_equal(frames[-1], read_frames(probe_video(videos / source), [len(frames) - 1])[0])


@pytest.mark.parametrize(
    "flags, fps, indices",
    [
        ([], 10, range(24)),
        (["--frame_stride", "3"], 10 / 3, range(0, 24, 3)),
        (["--target_fps", "5"], 5, range(0, 24, 2)),
        (["--target_fps", "4"], 4, [0, 2, 5, 7, 10, 12, 15, 17, 20, 22]),
        (["--target_fps", "30"], 10, range(24)),  # never more than there are
    ],
)
def test_the_rate_in_the_manifest_is_that_of_the_frames(videos, tmp_path, flags, fps, indices):
    row = prepare(videos, tmp_path / "out", *flags)["b.MKV"]
    assert row["fps"] == pytest.approx(fps, abs=1e-6) and row["source_fps"] == 10
    assert (row["first_frame"], row["last_frame"]) == (indices[0], indices[-1])
    expected = read_frames(probe_video(videos / "b.MKV"), list(indices))
    assert np.array_equal(frames_of(tmp_path / "out" / row["folder"]), expected)


def test_a_variable_rate_is_sampled_by_time():
    times = (0.0, 0.1, 0.2, 0.3, 0.4, 1.4)
    info = VideoInfo("x", 6, 5 / 1.4, 8, 8, "h264", "opencv", times=times)
    indices, fps = sample_segment(info, 0, 6, 5, 1)
    assert indices.tolist() == [0, 2, 4, 4, 4, 5, 5, 5] and fps == 5  # the picture stood still for a second
    indices, fps = sample_segment(info, 0, 6, None, 2)
    assert indices.tolist() == [0, 2, 4] and fps == pytest.approx(5)


def test_a_rotated_video_is_written_upright(tmp_path):
    (tmp_path / "in").mkdir()
    encode(tmp_path / "in/a.mp4", panning_clip(0.1, height=48, width=64), rotation=90)
    row = prepare(tmp_path / "in", tmp_path / "out", "--max_frames", "3")["a.mp4"]
    assert (row["width"], row["height"]) == (48, 64)
    frames = frames_of(tmp_path / "out/video_0001")
    upright = np.rot90(panning_clip(0.1, height=48, width=64), 1, (1, 2))[:3]
    assert np.abs(frames - upright.astype(float)).mean() < 8


@pytest.mark.parametrize("mode", ["crop", "pad", "stretch"])
def test_size_and_format_are_those_asked_for(videos, tmp_path, mode):
    flags = ["--size", "40x40", "--resize_mode", mode, "--format", "jpg", "--max_frames", "4"]
    row = prepare(videos, tmp_path / "out", *flags)["a.mp4"]
    frames = frames_of(tmp_path / "out/video_0001")
    assert sorted(os.listdir(tmp_path / "out/video_0001")) == [f"0000{n}.jpg" for n in range(4)]
    assert frames.shape == (4, 40, 40, 3) and (row["width"], row["height"]) == (40, 40)
    assert (frames[:, 0].max() < 20) == (mode == "pad")


# Manifest -------------------------------------------------------------------------------------------------------------


def test_the_manifest_says_where_each_clip_comes_from_and_how_much_it_moves(videos, tmp_path):
    rows = prepare(videos, tmp_path / "out", "--license", "CC-BY 4.0")
    for source in ("a.mp4", "b.MKV", "d10.webm"):
        row, frames = rows[source], frames_of(tmp_path / "out" / rows[source]["folder"])
        assert row["sha256"] == clip_writer._sha256(videos / source) and len(row["sha256"]) == 64
        assert (row["frames"], row["height"], row["width"], 3) == frames.shape
        assert row["license"] == "CC-BY 4.0" and row["notes"] == []
        assert row["motion_score"] == pytest.approx(motion_score(frames, row["fps"]), abs=1e-6)
    assert [rows[source]["motion_bucket_id"] for source in ("a.mp4", "b.MKV", "d10.webm")] == [86, 170, 255]
    assert rows["d9.mp4"].keys() == {"rejected", "source", "license"} and rows["d9.mp4"]["rejected"] == "not a video"


def test_motion_and_license_can_change_without_converting_again(videos, tmp_path):
    shutil.copytree(videos, tmp_path / "in")
    prepare(tmp_path / "in", tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    rows = prepare(tmp_path / "in", tmp_path / "out", "--motion", "const", "--license", "mine")
    assert {row["motion_bucket_id"] for row in rows.values() if "folder" in row} == {127}
    assert {row["license"] for row in rows.values()} == {"mine"}
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}


def test_short_static_black_cut_and_duplicate_clips_are_rejected_unless_kept(tmp_path, capsys):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    clip = panning_clip(0.1)
    write_video(folder / "a.mp4", clip, 10)
    shutil.copy(folder / "a.mp4", folder / "b_copy.mp4")
    with av.open(str(folder / "a.mp4")) as source, av.open(str(folder / "c_remux.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    write_video(folder / "d_black.mp4", np.maximum(clip // 16, 4), 10)
    write_video(folder / "e_static.mp4", np.repeat(clip[:1], 20, axis=0), 10)
    write_video(folder / "f_cut.mp4", np.concatenate([clip[:12], 255 - clip[12:]]), 10)
    flash = clip[::-1].copy()
    flash[9] = 255 - flash[9] // 2
    write_video(folder / "g_flash.mp4", flash, 10)
    write_video(folder / "h_short.mp4", clip[:3], 10)
    reasons = {source: row.get("rejected") for source, row in prepare(folder, output, "--min_frames", "4").items()}
    assert reasons == {
        "a.mp4": None,
        "b_copy.mp4": "duplicate of video_0001",
        "c_remux.mkv": "duplicate of video_0001",
        "d_black.mp4": "black",
        "e_static.mp4": "static",
        "f_cut.mp4": "cut inside; --scenes would split it",
        "g_flash.mp4": None,
        "h_short.mp4": "fewer than 4 frames",
    }
    assert manifest(output)["f_cut.mp4"]["cut_frame"] == 12
    assert manifest(output)["e_static.mp4"]["motion_score"] < STATIC_SCORE / 2
    assert sorted(path.name for path in output.glob("video_*")) == ["video_0001", "video_0007"]
    assert "2 clips, 40 frames\n6 rejected:\n  2 x duplicate of video_0001: b_copy.mp4, c_remux.mkv" in (
        capsys.readouterr().out
    )
    rows = prepare(folder, tmp_path / "all", "--keep", "black", "static", "cut", "duplicate")
    assert len(list((tmp_path / "all").glob("video_*"))) == 8 and not any("rejected" in row for row in rows.values())


def test_a_cut_stands_out_and_neither_a_flash_nor_fast_motion_does():
    assert find_cut([1, 1, 40, 1]) == 3 and find_cut([40, 1]) == 1 and find_cut([1, 30, 1, 50, 2]) == 4
    assert [find_cut(jumps) for jumps in ([], [40], [1, 40, 40, 1], [30, 40, 35], [1, 10, 1])] == [None] * 5


def test_frames_are_never_taken_from_both_sides_of_a_gap(tmp_path):
    (tmp_path / "in").mkdir()
    damage(encode(tmp_path / "in/a.mp4", panning_clip(0.1, 40), options={"bf": "0", "g": "10"}), 21)
    row = prepare(tmp_path / "in", tmp_path / "out")["a.mp4"]
    assert (row["first_frame"], row["last_frame"], row["frames"]) == (0, 20, 21)
    assert any("only frames 0 to 20" in note for note in row["notes"])


def test_scenes_become_clips_without_a_cut(tmp_path):
    pytest.importorskip("scenedetect")
    scenes = [panning_clip(0.1, count, seed=seed) for seed, count in ((1, 20), (2, 3), (3, 25))]
    (tmp_path / "in").mkdir()
    output, video = tmp_path / "out", encode(tmp_path / "in/a.mp4", np.concatenate(scenes))
    prepare(tmp_path / "in", output, "--scenes", "--min_frames", "8", "--max_frames", "22")
    rows = [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]
    spans = [(row.get("folder"), row["first_frame"], row["last_frame"]) for row in rows]
    assert spans == [("video_0001_001", 0, 19), (None, 20, 22), ("video_0001_003", 23, 44)]
    assert rows[1]["rejected"] == "fewer than 8 frames"
    expected = read_frames(probe_video(video), range(23, 45))
    assert np.array_equal(frames_of(output / "video_0001_003"), expected)


# Interruption, repetition, division -----------------------------------------------------------------------------------


def test_a_second_run_changes_nothing(videos, tmp_path, monkeypatch):
    shutil.copytree(videos, tmp_path / "in")
    shutil.copy(videos / "a.mp4", tmp_path / "in/z_copy.mp4")  # a duplicate has no folder, and is done all the same
    (tmp_path / "in/d9.mp4").unlink()  # a file that cannot be read is tried again
    prepare(tmp_path / "in", tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    prepare(tmp_path / "in", tmp_path / "out")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}


def test_killed_and_resumed_equals_uninterrupted(videos, whole, tmp_path):
    """SIGKILL while the second video is half-written, several times over."""
    slow = (
        "import sys, time, utils.frame_folders.clip_writer as writer\nimport prepare_dataset as script\n"
        "write = writer.write_image\n"
        "def slow(path, image):\n    write(path, image)\n    time.sleep(0.05)\n"
        "writer.write_image = slow\nscript.main(script.parse_args(sys.argv[1:]))"
    )
    output = tmp_path / "out"
    flags = ["--video_dir", str(videos), "--output_dir", str(output), "--num_workers", "0"]
    process = subprocess.Popen([sys.executable, "-c", slow, *flags], cwd=TREE)
    half, deadline = output / ".prepare/video_0002/video_0002", time.monotonic() + 60
    while not (half.exists() and len(os.listdir(half)) > 2) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 < len(os.listdir(half)) < 24 and not (output / "video_0002").exists()
    assert not (output / "manifest.jsonl").exists() and len(os.listdir(output / "video_0001")) == 20
    prepare(videos, output)
    assert contents(output) == contents(whole)


def test_a_folder_without_its_record_or_with_frames_missing_is_made_again(videos, whole, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(whole, output)
    (output / ".prepare/video_0001/record.json").unlink()  # killed between the folder and the record
    (output / "video_0001/00020.png").write_bytes(b"of an older run")
    (output / "video_0002/00003.png").unlink()
    prepare(videos, output)
    assert contents(output) == contents(whole)


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(videos, whole, tmp_path, monkeypatch):
    written, write = [], clip_writer.write_image

    def full(path, image):
        if len(written) > 30:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written.append(path)
        write(path, image)

    monkeypatch.setattr(clip_writer, "write_image", full)
    with pytest.raises(UserError, match="No space left.*run again"):
        prepare(videos, tmp_path / "out")
    monkeypatch.undo()
    prepare(videos, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(whole)


@pytest.mark.parametrize("order", [("1/2", "2/2"), ("3/3", "1/3", "2/3"), ("5/5", "1/5", "2/5", "4/5", "3/5")])
def test_shards_in_any_order_equal_the_undivided_run(videos, whole, tmp_path, order):
    part, parts = map(int, order[0].split("/"))
    first = prepare(videos, tmp_path / "out", "--shard", order[0])
    assert list(first) == ["a.mp4", "b.MKV", "d9.mp4", "d10.webm"][part - 1 :: parts]
    for shard in order[1:]:
        prepare(videos, tmp_path / "out", "--shard", shard)
    assert contents(tmp_path / "out") == contents(whole)


def test_a_manifest_written_while_another_shard_finishes_is_written_again(videos, whole, tmp_path, monkeypatch):
    """The other machine's last record appears between our reading of the records and our writing of the manifest."""
    output = tmp_path / "out"
    shutil.copytree(whole, output)
    record = output / ".prepare/video_0004/record.json"
    late = record.read_bytes()
    record.unlink()
    from utils.frame_folders import report as prepare_report

    real = prepare_report.write_report
    monkeypatch.setattr(prepare_report, "write_report", lambda *args: (real(*args), record.write_bytes(late)))
    prepare(videos, output, "--shard", "1/4")
    assert contents(output) == contents(whole)


def test_worker_processes_change_nothing(videos, whole, tmp_path):
    prepare(videos, tmp_path / "out", workers=2)
    assert contents(tmp_path / "out") == contents(whole)


class Deadly:
    """What kills the worker that unpickles it."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_worker_that_dies_is_one_line():
    with pytest.raises(UserError, match="--num_workers"):
        list(converted([Deadly(), Deadly()], 2))


def test_new_and_changed_videos_are_converted_and_the_others_keep_their_numbers(videos, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    shutil.copytree(videos, folder)
    prepare(folder, output)
    untouched = (output / "video_0002/00000.png").stat().st_mtime_ns
    encode(folder / "a.mp4", panning_clip(0.1, 7, seed=5))
    encode(folder / "a0.mp4", panning_clip(0.1, 9, seed=6))
    encode(folder / "d9.mp4", panning_clip(0.1, 8, seed=7))
    rows = prepare(folder, output)
    assert {source: (row["folder"], row["frames"]) for source, row in rows.items()} == {
        "a.mp4": ("video_0001", 7),
        "b.MKV": ("video_0002", 24),
        "d9.mp4": ("video_0003", 8),
        "d10.webm": ("video_0004", 28),
        "a0.mp4": ("video_0005", 9),
    }
    assert len(os.listdir(output / "video_0001")) == 7
    assert (output / "video_0002/00000.png").stat().st_mtime_ns == untouched


def test_other_settings_or_fewer_videos_need_overwrite_and_nothing_old_remains(videos, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    shutil.copytree(videos, folder)
    prepare(folder, output)
    before = contents(output)
    with pytest.raises(UserError, match="--max_frames unset -> 5, --size unset -> 32x32.*--overwrite"):
        prepare(folder, output, "--max_frames", "5", "--size", "32x32")
    (folder / "a.mp4").unlink()
    with pytest.raises(UserError, match="a.mp4 is gone.*--overwrite"):
        prepare(folder, output)
    assert contents(output) == before
    flags = ["--max_frames", "5", "--size", "32x32", "--format", "jpg"]
    prepare(folder, output, *flags, "--overwrite")
    prepare(folder, tmp_path / "fresh", *flags)
    assert contents(output) == contents(tmp_path / "fresh")


def test_folders_of_unknown_origin_are_not_touched(videos, tmp_path):
    (tmp_path / "video_0001").mkdir()
    (tmp_path / "video_0001/00000.png").write_bytes(b"mine")
    for flags in ([], ["--overwrite"]):
        with pytest.raises(UserError, match="unknown origin"):
            prepare(videos, tmp_path, *flags)
    assert contents(tmp_path) == {"video_0001/00000.png": b"mine"}


def test_max_samples_is_a_beginning_of_the_whole(videos, whole, tmp_path, capsys):
    assert list(prepare(videos, tmp_path / "out", "--max_samples", "2")) == ["a.mp4", "b.MKV"]
    assert "2 videos are still to be done" in capsys.readouterr().out
    prepare(videos, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(whole)


# Awkward folders ------------------------------------------------------------------------------------------------------


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

    def limited(path, **more):
        return real(path, 10 if path.name == "b.MKV" else 10**6, **more)

    monkeypatch.setattr(clip_writer, "probe_video", limited)
    rows = prepare(videos, tmp_path / "out")
    assert rows["b.MKV"]["rejected"] == "64x48 is more than the limit of 10 pixels" and "folder" in rows["d10.webm"]
    monkeypatch.undo()
    assert prepare(videos, tmp_path / "out")["b.MKV"]["frames"] == 24


def test_a_clip_that_fails_half_way_leaves_no_frames(videos, tmp_path, monkeypatch):
    def breaks(info, indices):
        yield from read_frames(info, list(indices)[:3])
        raise clip_writer.VideoError("frame 3 is not what was probed: the file has changed")

    monkeypatch.setattr(decode, "MOST_CLAIMED", 0)  # no header is believed: the frames come from a second decoding
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


# Command line ---------------------------------------------------------------------------------------------------------


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
