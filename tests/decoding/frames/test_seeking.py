"""Frame n is frame n, wherever reading begins."""

import random

import av
import numpy as np
import pytest

from tests.clips import damage, encode, moving_clip
from tests.decoding.reading import assert_looks_like, read_all
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.decoding.source import Source
from utils.decoding.video_info import VideoError


@pytest.mark.parametrize(
    "name, codec, options",
    [
        ("long-gop.mp4", "libx264", {"g": "250", "bf": "3"}),
        ("open-gop.mkv", "libx264", {"x264-params": "open-gop=1:keyint=30:bframes=6:b-adapt=0"}),
        ("intra-refresh.mp4", "libx264", {"x264-params": "intra-refresh=1:keyint=20"}),
        ("bad-time-stamps.mpg", "mpeg2video", {"bf": "2"}),
        ("a.avi", "mpeg4", {"bf": "2"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_frame_n_equals_frame_n_of_sequential_decoding_V14(tmp_path, name, codec, options):
    info, frames = read_all(encode(tmp_path / name, moving_clip(180, 48, 64), codec, fps=25, options=options))
    assert_looks_like(frames[::9], moving_clip(180, 48, 64)[::9], 20)
    with av.open(info.path) as container:
        plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.abs(np.stack(plain).astype(int) - frames).max() <= 2
    for n in [0, 63, 64, 65, 179, *random.Random(0).sample(range(180), 40)]:
        window = sorted({n, min(n + 1, 179), min(n + 9, 179)})
        assert np.array_equal(read_frames(info, window), frames[window]), n


def test_a_seek_is_used_far_from_the_start_only(tmp_path, monkeypatch):
    sought = []
    seek = Source.seek
    monkeypatch.setattr(Source, "seek", lambda self, ticks: sought.append(ticks * self.time_base) or seek(self, ticks))
    info = probe_video(encode(tmp_path / "a.mp4", moving_clip(120)))
    for n in (0, 20, 63, 100):
        read_frames(info, [n])
    assert sought == [pytest.approx(10, abs=0.06)]
    read_frames(probe_video(damage(tmp_path / "a.mp4", 30)), [80])
    assert len(sought) == 1


def test_a_seek_that_lands_elsewhere_is_not_believed(tmp_path, monkeypatch):
    info, frames = read_all(encode(tmp_path / "a.mp4", moving_clip(120)))

    seek = Source.seek
    monkeypatch.setattr(Source, "seek", lambda self, ticks: seek(self, ticks + round(5 / self.time_base)))
    assert np.array_equal(read_frames(info, [100]), frames[[100]])


@pytest.mark.parametrize("codec", ["mpeg4", "msmpeg4"])  # the decoder of the latter shows a picture all the same
def test_a_key_frame_that_is_none_is_not_believed(tmp_path, codec):
    """Some programs mark every packet as one. A decoder that begins there shows what it never got to know."""
    right = encode(tmp_path / "right.mkv", moving_clip(120, 48, 64), codec, options={"g": "300"})
    with av.open(str(right)) as source, av.open(str(tmp_path / "wrong.mkv"), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream, packet.is_keyframe = stream, True
                output.mux(packet)
    info, frames = read_all(tmp_path / "wrong.mkv")
    assert info.by_time and np.array_equal(frames, read_all(right)[1])
    assert np.array_equal(read_frames(info, [100, 101]), frames[[100, 101]])


def test_indices_may_repeat_but_must_ascend_and_exist(tmp_path):
    info, frames = read_all(encode(tmp_path / "a.mp4", moving_clip(8)))
    assert np.array_equal(read_frames(info, [2, 2, 5, 7, 7, 7]), frames[[2, 2, 5, 7, 7, 7]])
    assert read_frames(info, []).shape == (0, 64, 64, 3)
    with pytest.raises(ValueError, match="ascend"):
        read_frames(info, [3, 2])
    for indices in ([0, 8], [-1, 2]):
        with pytest.raises(VideoError):
            read_frames(info, indices)


def test_a_file_that_changed_since_it_was_probed_is_an_error(tmp_path):
    path = tmp_path / "a.mp4"
    info = probe_video(encode(path, moving_clip(16)))
    encode(path, moving_clip(8))
    with pytest.raises(VideoError, match="changed"):
        read_frames(info, [12])
    encode(path, moving_clip(16, 32, 32))
    with pytest.raises(VideoError, match="changed"):
        read_frames(info, [0])
    path.unlink()
    with pytest.raises(VideoError, match="No such file"):
        read_frames(info, [0])
