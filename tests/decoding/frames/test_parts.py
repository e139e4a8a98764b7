"""Parts of longer videos, as episodes are stored, and videos side by side, as cameras are shown."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.clips import damage, encode, moving_clip
from tests.decoding.reading import read_all
from utils.decoding.probe import probe_again, probe_video
from utils.decoding.read import read_frames
from utils.decoding.video_info import VideoError, files_of, part_of, side_by_side


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(info, frames) of a video of 150 frames, in which a seek is worth its while."""
    return read_all(encode(tmp_path_factory.mktemp("parts") / "all.mp4", moving_clip(150, 48, 64), "libx264", fps=25))


@pytest.mark.parametrize("first, count", [(0, 40), (40, 30), (90, 60), (149, 1)])
def test_frames_of_a_part_are_those_of_the_whole_from_its_first_on(whole, first, count):
    info, frames = whole
    part = part_of(info, "episode", first, count)
    assert (part.frames, part.fps, part.path, files_of(part)) == (count, 25, "episode", (info.path,))
    assert np.array_equal(read_frames(part, range(count)), frames[first : first + count])
    for n in {0, count // 2, count - 1}:
        assert np.array_equal(read_frames(part, [n, n]), frames[[first + n] * 2])
    with pytest.raises(VideoError, match=f"wanted of {count}"):
        read_frames(part, [count])


def test_what_only_was_counted_is_decoded_when_asked_for_and_stays_a_part(whole):
    counted = probe_video(whole[0].path, decode=False)
    part = probe_again(part_of(counted, "episode", 20, 50))
    assert not counted.verified and part.verified and (part.frames, part.part.first) == (50, 20)
    pair = probe_again(side_by_side([part_of(counted, "a", 0, 9), part_of(counted, "b", 9, 9)], "pair"))
    assert pair.verified and [each.part.first for each in pair.beside] == [0, 9]


def test_a_part_beyond_the_end_or_of_a_file_with_gaps_is_refused(whole, tmp_path):
    info, _ = whole
    with pytest.raises(VideoError, match="has 150 frames, and it should lie in 140 to 159"):
        part_of(info, "episode", 140, 20)
    for first, count in ((-3, 10), (4, 0)):
        with pytest.raises(VideoError, match="it should lie in"):
            part_of(info, "episode", first, count)
    file = tmp_path / "bad.mp4"
    file.write_bytes(Path(info.path).read_bytes())
    with pytest.raises(VideoError, match="nobody knows"):
        part_of(probe_video(damage(file, 60)), "episode", 0, 20)
    with pytest.raises(VideoError, match="nobody knows"):
        part_of(dataclasses.replace(info, times=(0.0, 0.1)), "episode", 0, 20)


def test_cameras_stand_side_by_side_at_the_height_of_the_lowest(whole, tmp_path):
    info, frames = whole
    low, low_frames = read_all(encode(tmp_path / "low.mp4", moving_clip(150, 24, 24)[:, :, ::-1], "libx264", fps=25))
    both = side_by_side([part_of(info, "left", 10, 20), part_of(low, "right", 10, 20)], "both")
    assert (both.height, both.width, both.frames, len(files_of(both))) == (24, 32 + 24, 20, 2)
    found = read_frames(both, [0, 7, 7, 19])
    assert np.array_equal(found[:, :, 32:], low_frames[[10, 17, 17, 29]])
    left = [cv2.resize(frame, (32, 24), interpolation=cv2.INTER_AREA) for frame in frames[[10, 17, 17, 29]]]
    assert np.array_equal(found[:, :, :32], np.stack(left))


def test_cameras_of_different_lengths_or_rates_do_not_belong_together(whole):
    info, _ = whole
    with pytest.raises(VideoError, match="its cameras have 20 at 25 a second, 21 at 25 a second frames"):
        side_by_side([part_of(info, "a", 0, 20), part_of(info, "b", 0, 21)], "both")
    with pytest.raises(VideoError, match="do not belong together"):
        side_by_side([info, dataclasses.replace(info, fps=24.0)], "both")
