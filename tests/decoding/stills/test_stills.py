"""Pictures as clips: folders of them, and single ones."""

import os

import numpy as np
import pytest
from PIL import Image

from tests.clips import moving_clip
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.decoding.video_info import VideoError


def folder_of(path, frames, suffix=".png"):
    path.mkdir()
    for n, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"frame{n}{suffix}")  # frame2 comes before frame10
    return path


def test_a_folder_of_pictures_is_a_clip_in_natural_order(tmp_path):
    frames = moving_clip(12)
    folder = folder_of(tmp_path / "clip", frames)
    (folder / ".frame0.png").write_bytes(b"hidden")
    (folder / "notes.txt").write_text("no picture")
    info = probe_video(folder)
    assert (info.frames, info.height, info.width, info.verified) == (12, *frames.shape[1:3], True)
    assert np.array_equal(read_frames(info, range(12)), frames)
    assert np.array_equal(read_frames(info, [3, 3, 11]), frames[[3, 3, 11]])
    assert not probe_video(folder, decode=False).verified


def test_a_picture_is_a_clip_of_one_frame(tmp_path):
    picture = np.zeros((32, 48, 4), np.uint8)
    picture[:, 24:] = (200, 0, 0, 255)
    Image.fromarray(picture).save(tmp_path / "a.png")  # its left half is transparent
    info = probe_video(tmp_path / "a.png", decode=False)
    assert (info.frames, info.width, info.height) == (1, 48, 32)
    (frame,) = read_frames(info, [0])
    assert (frame[:, :24] == 255).all() and (frame[:, 24:] == (200, 0, 0)).all()


def test_pictures_of_several_sizes_become_those_of_the_first_and_it_is_said(tmp_path):
    folder = folder_of(tmp_path / "clip", moving_clip(2, 32, 48))
    Image.new("RGB", (96, 64), "red").save(folder / "frame2.jpg")
    info = probe_video(folder)
    assert info.notes == ("its pictures have several sizes: all become 48x32",)
    assert read_frames(info, range(3)).shape == (3, 32, 48, 3)


@pytest.mark.parametrize("decode", [True, False])
def test_what_is_no_picture_never_becomes_a_frame(tmp_path, decode):
    folder = folder_of(tmp_path / "clip", moving_clip(4))
    (folder / "frame2.png").write_bytes((folder / "frame2.png").read_bytes()[:99])
    with pytest.raises(VideoError, match=r"frame2\.png cannot be read"):
        read_frames(probe_video(folder, decode=decode), range(4))
    (folder / "frame0.png").unlink()
    os.mkfifo(folder / "frame0.png")
    with pytest.raises(VideoError, match=r"frame0\.png cannot be read \(not a regular file\)"):
        probe_video(folder, decode=decode)
    (tmp_path / "program.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(VideoError, match="cannot identify image file"):
        probe_video(tmp_path / "program.png", decode=decode)
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoError, match="a directory without pictures"):
        probe_video(tmp_path / "empty", decode=decode)


def test_a_folder_that_has_changed_is_not_read(tmp_path):
    folder = folder_of(tmp_path / "clip", moving_clip(4))
    info = probe_video(folder, decode=False)
    (folder / "frame1.png").unlink()
    with pytest.raises(VideoError, match="has 3 pictures, not 4"):
        read_frames(info, [0])
