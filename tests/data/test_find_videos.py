"""The videos of a folder."""

import os

import pytest

from utils.data.find_videos import find_videos


def test_find_videos_lists_videos_and_suspects_in_natural_order_V26_V30_V31_V32(tmp_path):
    for name in ("clip10.mp4", "clip2.MP4", "Clip1.mov", "._clip1.mp4", ".DS_Store", "Thumbs.db", "notes.txt", "a.GIF"):
        (tmp_path / name).touch()
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.mkv").touch()
    (tmp_path / "sub" / "back").symlink_to(tmp_path)
    (tmp_path / "sub" / "self").symlink_to("self")
    (tmp_path / "zgone.mp4").symlink_to("nothing")
    os.mkfifo(tmp_path / "zz.mp4")
    flat = ["a.GIF", "Clip1.mov", "clip2.MP4", "clip10.mp4", "zgone.mp4", "zz.mp4"]
    assert [path.name for path in find_videos(tmp_path)] == flat
    assert {path.name for path in find_videos(tmp_path, recursive=True)} == {*flat, "x.mkv"}
    assert len(find_videos(tmp_path, recursive=True)) == 7  # the link back is not followed twice
    with pytest.raises(OSError):
        find_videos(tmp_path / "absent")
