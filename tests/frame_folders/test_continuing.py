"""No interruption, repetition or division of the work of prepare_dataset.py shows."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from prepare_dataset import converted
from tests.clips import encode, panning_clip
from tests.frame_folders.preparing import TREE, contents, prepare
from utils.cli import UserError
from utils.frame_folders import clip_writer
from utils.motion.score import MOTION_MEASURE


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


def test_what_an_older_measure_of_motion_judged_is_made_again(videos, whole, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(whole, output)
    path = output / ".prepare" / "video_0002" / "record.json"
    record = json.loads(path.read_text())
    assert record["clips"]["video_0002"].pop("motion_measure") == MOTION_MEASURE
    path.write_text(json.dumps(record))
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
