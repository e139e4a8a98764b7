"""Damaged files: what is lost, what leans on it and so is no picture, and where the gaps are."""

from contextlib import suppress

import av
import numpy as np
import pytest

from tests.clips import damage, encode, moving_clip
from tests.decoding.reading import assert_looks_like, read_all
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.decoding.video_info import VideoError


@pytest.mark.parametrize("codec, name", [("libx264", "a.mp4"), ("libx264", "a.mkv"), ("mpeg4", "a.avi")])
def test_reading_goes_on_at_the_key_frame_behind_a_bad_packet_and_names_the_gap_V5(tmp_path, codec, name):
    clip, bad = moving_clip(40), 21
    no_more_keys = {"x264-params": "scenecut=0"} if codec == "libx264" else {}
    path = encode(tmp_path / name, clip, codec, options={"bf": "0", "g": "10"} | no_more_keys)
    info, frames = read_all(damage(path, bad))  # the next key frame is frame 30
    assert info.frames == 31 and info.gaps == (bad,) and info.times is None and info.fps == 10
    assert info.notes[:2] == ("1 undecodable packet", "8 damaged frames left out")
    assert_looks_like(frames, np.delete(clip, slice(bad, 30), 0), 14)


def test_the_gap_lies_where_the_frame_is_missing_not_where_the_read_failed_V5(tmp_path):
    """With B-frames the decoder reports the bad packet before it has shown the frames in front of the hole."""
    path = encode(
        tmp_path / "a.mp4", moving_clip(40), options={"g": "10", "x264-params": "bframes=2:b-adapt=0:b-pyramid=0"}
    )
    whole = probe_video(path)
    with av.open(str(path)) as container:
        shown = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
    bad = next(n for n in range(20, 40) if shown[n] < shown[n - 1])  # a B-frame: nothing else needs it
    hole = sorted(shown).index(shown[bad])
    info = probe_video(damage(path, bad))
    assert whole.gaps == () and hole in info.gaps and 0 < len(info.left_out) < 10
    assert info.frames == 39 - len(info.left_out)


def test_packets_that_the_container_lost_leave_a_gap_V5(tmp_path):
    path = encode(tmp_path / "a.mkv", moving_clip(40), options={"bf": "0", "g": "10"})
    info = probe_video(damage(path, 21, before=6))  # no packet is bad here: some are not found any more
    assert info.frames < 40 and info.gaps == (21,) and info.times is None


def half_lost(path, packet: int):
    """Overwrite the second half of a video packet: most decoders make some picture of what is left."""
    with av.open(str(path)) as container:
        hit = bytes(list(container.demux(video=0))[packet])
    data, half = path.read_bytes(), len(hit) // 2
    path.write_bytes(data.replace(hit, hit[:half] + b"\xff" * (len(hit) - half)))
    return path


def test_no_window_shows_what_leans_on_a_damaged_picture_that_comes_later(tmp_path):
    """Two B pictures are shown before the P picture that they lean on: a window that ends with them ends before it."""
    options = {"bf": "2", "g": "24", "x264-params": "b-adapt=0:scenecut=0:b-pyramid=0"}
    path = encode(tmp_path / "a.mkv", moving_clip(24), options=options)
    whole = read_all(path)[1]
    info, lost = probe_video(half_lost(path, 4), decode=False), []
    assert not info.verified and info.frames == 24
    for n in range(24):
        try:
            assert np.array_equal(read_frames(info, [n])[0], whole[n]), n
        except VideoError:
            lost.append(n)
    assert lost == list(range(4, 24))
    assert probe_video(path).frames == 4


@pytest.mark.parametrize(
    ("codec", "name", "pix_fmt"),
    [("mjpeg", "a.mov", "yuvj420p"), ("ffv1", "a.mkv", "yuv420p"), ("png", "a.mov", "rgb24")],
)
def test_a_picture_that_stands_alone_is_left_out_if_any_of_it_is_lost(tmp_path, codec, name, pix_fmt):
    path = encode(tmp_path / name, moving_clip(12), codec, pix_fmt, options={"g": "1"})
    whole = read_all(path)[1]
    info, frames = read_all(half_lost(path, 5))
    assert info.frames == 11 and info.gaps == (5,) and np.array_equal(frames, np.delete(whole, 5, 0))


def test_a_picture_that_damage_has_made_look_unneeded_is_not_skipped(tmp_path):
    """What leans on it would be shown as if it were whole: of a file that was only counted nothing is skipped."""
    whole = encode(
        tmp_path / "a.mp4", moving_clip(90), options={"g": "90", "bf": "2", "x264-params": "scenecut=0"}
    ).read_bytes()
    with av.open(str(tmp_path / "a.mp4")) as container:
        packets = [(packet.pos, bytes(packet)) for packet in container.demux(video=0) if packet.size]
    changed, skipped = tmp_path / "b.mp4", 0
    for pos, data in packets[8:40]:
        if data[4] >> 5 & 3 == 0:  # nal_ref_idc: nothing leans on it
            continue
        damaged = bytearray(whole)
        damaged[pos + 4] &= 0b10011111
        changed.write_bytes(damaged)
        counted, decoded = probe_video(changed, decode=False), probe_video(changed)
        assert not counted.verified
        known = {frame.tobytes() for frame in read_frames(decoded, range(decoded.frames))}
        skipped += 1
        with suppress(VideoError):
            assert all(frame.tobytes() in known for frame in read_frames(counted, range(70, 74)))
    assert skipped > 5
