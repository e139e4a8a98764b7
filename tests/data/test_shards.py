"""WebDataset shards: clips inside tar files, and indexing by several processes."""

import io
import json
import os
import signal
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clips import damage, encode
from tests.data.folders import add_clip, load, numbers, ramp
from utils.cli import UserError
from utils.data import clip_index
from utils.data.errors import DataError, MissingData
from utils.data.find_clips import FolderFormat, find_clips
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.decoding.video_info import VideoError
from utils.video.encode import write_video


def write_shard(path, members) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def clip_bytes(folder, frames: int) -> bytes:
    return write_video(folder / "clip.mp4", ramp(frames), 8) or (folder / "clip.mp4").read_bytes()


@pytest.fixture
def shards(tmp_path):
    """Two shards of three clips each; every shard has a 000.mp4."""
    folder, work = tmp_path / "shards", tmp_path / "work"
    folder.mkdir(), work.mkdir()
    members = []
    for n in range(6):
        members.append((f"{n % 3:03d}.mp4", clip_bytes(work, 8 + n)))
        members.append((f"{n % 3:03d}.txt", f"clip {n}".encode()))
    write_shard(folder / "b-10.tar", members[6:])
    write_shard(folder / "b-2.tar", members[:6])
    return folder


def test_clips_in_shards_are_those_that_went_in(shards, tmp_path):
    dataset = load(shards, augment=False)
    assert dataset.captions() == [f"clip {n}" for n in range(6)]  # b-2 comes before b-10
    assert [info.frames for info, _ in dataset.items] == list(range(8, 14))
    assert numbers(dataset[5]["video"]) == [3, 4, 5, 6, 7, 8, 9, 10]
    write_video(tmp_path / "alone.mp4", ramp(13), 8)
    alone = read_frames(probe_video(tmp_path / "alone.mp4"), range(13))
    assert np.array_equal(read_frames(dataset.items[5][0], range(13)), alone)
    assert sorted(dataset.digests()) == sorted(f"b-{n}.tar/{m:03d}.mp4" for n in (2, 10) for m in range(3))


def test_a_damaged_clip_in_a_shard_gives_what_decodes(tmp_path):
    path = tmp_path / "a.mp4"
    encode(path, ramp(24), options={"g": "6", "bf": "0", "x264-params": "scenecut=0"}, fps=8)
    damage(path, 15)  # frames 15 to 17 are lost: training counts them, and finds that out later
    (tmp_path / "data").mkdir()
    write_shard(tmp_path / "data" / "a.tar", [("0.mp4", path.read_bytes()), ("0.txt", b"a clip")])
    dataset = load(tmp_path / "data", num_frames=4, cache_bytes=0)
    seen = [numbers(dataset[epoch, 0]["video"]) for epoch in range(20)]
    assert not dataset.items[0][0].verified and not any({15, 16, 17} & set(window) for window in seen)


def test_shards_may_lie_on_other_disks_and_are_indexed_once(shards, tmp_path, monkeypatch):
    (tmp_path / "links").mkdir()
    for shard in shards.iterdir():
        (tmp_path / "links" / shard.name).symlink_to(shard)
    assert len(load(tmp_path / "links")) == 6
    monkeypatch.setattr(clip_index, "probe_plainly", None)  # nobody probes again
    assert load(tmp_path / "links").captions() == [f"clip {n}" for n in range(6)]


def test_a_shard_in_another_order_is_read_anew_whatever_its_time_says(tmp_path):
    clips = {name: clip_bytes(tmp_path, frames) for name, frames in (("0", 8), ("1", 12))}
    shard, before = tmp_path / "data" / "a.tar", None
    shard.parent.mkdir()
    for order in ("01", "10"):
        write_shard(shard, [m for n in order for m in ((f"{n}.mp4", clips[n]), (f"{n}.txt", f"clip {n}".encode()))])
        before = before or shard.stat()
        os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
        found = {texts[0]: info.frames for info, texts in load(shard.parent).items}
        assert found == {"clip 0": 8, "clip 1": 12} and shard.stat().st_size == before.st_size
        dataset = load(shard.parent, augment=False, num_frames=8)
        assert all(
            numbers(dataset[n]["video"])[0] == (info.frames - 8) // 2 for n, (info, _) in enumerate(dataset.items)
        )


def test_captions_in_json_several_and_pictures(tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(picture, "PNG")
    members = [
        ("a/0.mp4", clip_bytes(tmp_path, 8)),
        ("a/0.json", json.dumps({"caption": ["one", "two"], "fps": 8}).encode()),
        ("a/0.mp4.md5", b"not of the sample"),
        ("a/1.png", picture.getvalue()),
        ("a/1.txt", b"ein Bild\n"),
        ("a/2.json", b"{}"),  # nothing to it
        ("../3.mp4", clip_bytes(tmp_path, 8)),
    ]
    (tmp_path / "data").mkdir()
    write_shard(tmp_path / "data" / "a.tar", members)
    assert load(tmp_path / "data").items[0][1] == ("one", "two") and len(load(tmp_path / "data")) == 1
    dataset = load(tmp_path / "data", image_share=0.5, augment=False)
    assert dataset.captions() == ["one", "two", "ein Bild"]
    assert (dataset[1]["video"][0] == 1).all() and dataset[1]["video"].shape[1] == 1


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("0.txt", b"a clip")], "no sample with a video"),
        ([("0.mp4", None)], "no caption: a.tar/0.mp4"),
        ([("0.mp4", None), ("0.txt", b"\xff\xfe\x00\x00\xff")], "the caption of .*0.mp4: byte"),
        ([("0.mp4", None), ("0.json", b"[1]")], "0.mp4: its .json is no JSON object"),
        ([("0.mp4", b"words"), ("0.txt", b"a clip")], "not a video: a.tar/0.mp4"),
        ([("0.mp4", b""), ("0.txt", b"a clip")], "empty file: a.tar/0.mp4"),
    ],
)
def test_what_is_wrong_in_a_shard_is_one_line(tmp_path, members, said):
    clip = clip_bytes(tmp_path, 8)
    (tmp_path / "data").mkdir()
    write_shard(tmp_path / "data" / "a.tar", [(name, clip if data is None else data) for name, data in members])
    with pytest.raises((DataError, MissingData), match=said):
        load(tmp_path / "data")


def test_what_is_no_tar_and_a_shard_that_shrinks_are_one_line(shards, tmp_path):
    info = load(shards).items[5][0]
    os.truncate(shards / "b-10.tar", os.path.getsize(shards / "b-10.tar") // 4)
    with pytest.raises(VideoError, match="has changed since it was probed"):
        read_frames(info, [0])
    with tarfile.open(tmp_path / "z.tgz", "w:gz") as tar:
        tar.add(shards / "b-2.tar", "x")
    (tmp_path / "packed").mkdir()
    (tmp_path / "z.tgz").rename(tmp_path / "packed" / "z.tar")
    with pytest.raises(DataError, match=r"z\.tar: is no tar file that can be read at any place"):
        load(tmp_path / "packed")


def test_files_of_the_same_name_in_two_folders_are_two_clips_to_a_resumed_run(tmp_path):
    for folder in "ab":
        write_video(tmp_path / folder / "0.mp4", ramp(8), 8)
    (tmp_path / "metadata.csv").write_text("file_name,text\na/0.mp4,one\nb/0.mp4,two\n")
    assert list(load(tmp_path).digests()) == ["a/0.mp4", "b/0.mp4"]


def test_processes_find_what_threads_find(tmp_path, monkeypatch):
    for n in range(12):
        add_clip(tmp_path, f"clip{n}", ramp(8 + n % 3))
    (tmp_path / "videos" / "clip5.mp4").write_bytes(b"words")
    expected = load(tmp_path)
    (tmp_path / ".video_index.json").unlink()
    monkeypatch.setattr(clip_index, "MANY", 4)
    monkeypatch.setattr(clip_index.os, "cpu_count", lambda: 2)
    found = load(tmp_path)
    assert found.items == expected.items and found.report == expected.report
    assert len(json.loads((tmp_path / ".video_index.json").read_text())["videos"]) == 11


def test_a_process_that_dies_is_one_line_and_what_was_learned_is_kept(tmp_path, monkeypatch):
    for n in range(40):
        add_clip(tmp_path, f"clip{n}", ramp(8))
    monkeypatch.setattr(clip_index, "MANY", 4)
    monkeypatch.setattr(clip_index.os, "cpu_count", lambda: 1)
    results = clip_index.probe_all(tmp_path, find_clips(tmp_path, FolderFormat())[0])
    assert next(results).frames == 8
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    workers = [int(pid) for pid in children if b"utils.workers" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(UserError, match="a process died that helped"):
        list(results)
    assert len(workers) == 1
    assert len(json.loads((tmp_path / ".video_index.json").read_text())["videos"]) >= 1
