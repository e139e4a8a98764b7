"""Clips cut out of long videos, with the captions of these: what both trainers read."""

import json

import numpy as np
import pytest

from tests.clips import encode, panning_clip
from tests.data.folders import load
from tests.frame_folders.preparing import frames_of, prepare
from utils.cli import UserError
from utils.frame_folders.frame_clips import find_frame_folders


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioned")
    (folder / "videos").mkdir()
    for name, count in (("a.mp4", 26), ("b.mp4", 8)):
        encode(folder / "videos" / name, panning_clip(0.1, count, height=48, width=64))
    (folder / "captions").mkdir()
    (folder / "captions" / "a.txt").write_text("a long pan")
    (folder / "captions" / "b.txt").write_text("a short pan")
    return folder


def rows(output) -> list[dict]:
    return [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]


def test_long_videos_are_cut_into_clips_of_so_many_frames(captioned, tmp_path):
    prepare(captioned / "videos", tmp_path / "cut", "--clip_frames", "8", "--min_frames", "4")
    found = [(row["folder"], row["frames"], row["first_frame"], row["last_frame"]) for row in rows(tmp_path / "cut")]
    pieces = [("video_0001_001", 8, 0, 7), ("video_0001_002", 8, 8, 15), ("video_0001_003", 8, 16, 23)]
    assert found == [*pieces, ("video_0002_001", 8, 0, 7)]  # two frames are left over
    prepare(captioned / "videos", tmp_path / "whole")
    whole = frames_of(tmp_path / "whole" / "video_0001")
    assert np.array_equal(frames_of(tmp_path / "cut" / "video_0001_002"), whole[8:16])


def test_both_trainers_read_what_was_cut_with_captions(captioned, tmp_path):
    output = tmp_path / "out"
    prepare(captioned / "videos", output, "--clip_frames", "8", "--captions", "--size", "32x32")
    dataset = load(output, num_frames=8, augment=False)
    assert dataset.captions() == ["a long pan"] * 3 + ["a short pan"] and len(dataset) == 4
    frames = ((dataset[1]["video"] + 1) * 127.5).round().numpy().transpose(1, 2, 3, 0)
    assert np.array_equal(frames, frames_of(output / "video_0001_002"))
    assert {info.fps for info, _ in dataset.items} == {10}
    assert len(find_frame_folders(output, 8, 1, 7, None)[0]) == 4


def test_clips_of_one_video_train_or_validate_together(captioned, tmp_path):
    prepare(captioned / "videos", tmp_path / "out", "--clip_frames", "8", "--captions")
    train, val = (set(load(tmp_path / "out", split=split, val_fraction=0.5).captions()) for split in ("train", "val"))
    assert len(train) == len(val) == 1 and train != val
    (captioned / "videos" / "b.mp4").rename(tmp_path / "b.mp4")
    prepare(captioned / "videos", tmp_path / "one", "--clip_frames", "8", "--captions")
    (tmp_path / "b.mp4").rename(captioned / "videos" / "b.mp4")
    assert [len(load(tmp_path / "one", split=split)) for split in ("train", "val")] == [2, 1]


@pytest.mark.parametrize("where", ["a folder", "a table", "beside", "a table in it"])
def test_captions_are_taken_from_where_people_have_them(captioned, tmp_path, where):
    videos = tmp_path / "clips"
    videos.mkdir()
    for name in "ab":
        (videos / f"{name}.mp4").symlink_to(captioned / "videos" / f"{name}.mp4")
    flags = ["--captions"]
    if where == "a folder":
        flags.append(str(captioned / "captions"))
    elif where == "beside":
        (videos / "a.txt").write_text("a long pan")
        (videos / "b.txt").write_text("a short pan")
    else:
        table = (tmp_path if where == "a table" else videos) / "list.csv"
        table.write_text("name,words\na.mp4,a long pan\nb.mp4,a short pan\na.mp4,another\n")
        flags += [str(table)] * (where == "a table")
        flags += ["--video_column", "name", "--caption_column", "words"]
    prepare(videos, tmp_path / "out", *flags)
    several = ["another"] if "table" in where else []
    assert [row["text"] for row in rows(tmp_path / "out")] == [["a long pan", *several], ["a short pan"]]


def test_files_of_one_name_in_two_folders_keep_their_own_captions(captioned, tmp_path):
    for folder, name in (("one", "a"), ("two", "b")):
        (tmp_path / "clips" / folder).mkdir(parents=True)
        (tmp_path / "clips" / folder / "0.mp4").symlink_to(captioned / "videos" / f"{name}.mp4")
    (tmp_path / "list.csv").write_text("file_name,text\nclips/one/0.mp4,long\nelsewhere/0.mp4,of another\n")
    prepare(tmp_path / "clips", tmp_path / "out", "--recursive", "--captions", str(tmp_path / "list.csv"))
    assert [row["text"] for row in rows(tmp_path / "out")] == [["long"], []]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "0.txt").write_text("of which?")
    with pytest.raises(UserError, match=r"several videos would share the caption 0\.txt"):
        prepare(tmp_path / "clips", tmp_path / "again", "--recursive", "--captions", str(tmp_path / "one"))


def test_captions_that_are_not_there_are_said(captioned, tmp_path, capsys):
    with pytest.raises(UserError, match=r"--captions: none of the videos .* has a caption in .*empty"):
        (tmp_path / "empty").mkdir()
        prepare(captioned / "videos", tmp_path / "out", "--captions", str(tmp_path / "empty"))
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.txt").write_text("a long pan")
    prepare(captioned / "videos", tmp_path / "out", "--captions", str(tmp_path / "one"))
    assert "1 x no caption: b.mp4" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"1 x no caption: video_0002"):
        load(tmp_path / "out")


def test_a_dataset_of_before_clips_were_cut_is_continued_and_other_lengths_are_refused(captioned, tmp_path):
    prepare(captioned / "videos", tmp_path / "out")
    stored = json.loads((tmp_path / "out/.prepare/settings.json").read_text())
    assert "clip_frames" not in stored["settings"]
    prepare(captioned / "videos", tmp_path / "cut", "--clip_frames", "8")
    for flags in (["--clip_frames", "6"], []):
        with pytest.raises(UserError, match="--clip_frames 8 -> "):
            prepare(captioned / "videos", tmp_path / "cut", *flags)
