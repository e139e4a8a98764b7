"""Videos, GIFs, frames and images out."""

import os
import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clips import cut, moving_clip
from tests.decoding.reading import read_all
from utils.decoding.probe import probe_video
from utils.video import encode as encoding
from utils.video.encode import write_frames, write_gif, write_image, write_video


def test_written_video_reads_back_V11(tmp_path):
    for size in ((64, 64), (37, 63), (1, 1)):
        clip = moving_clip(16, *size)
        write_video(tmp_path / "new folder" / "a.mp4", clip, 8)
        info, frames = read_all(tmp_path / "new folder" / "a.mp4")
        assert (info.frames, info.fps) == (16, 8)
        assert frames.shape == (16, size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
        assert np.abs(frames[:, : size[0], : size[1]].astype(int) - clip).mean() < 4
    data = (tmp_path / "new folder" / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert os.listdir(tmp_path / "new folder") == ["a.mp4"]


@pytest.mark.parametrize("fps", [7.5, 24000 / 1001, 60])
def test_fps_is_kept(tmp_path, fps):
    write_video(tmp_path / "a.mp4", moving_clip(8), fps)
    assert probe_video(tmp_path / "a.mp4").fps == pytest.approx(fps, rel=1e-5)


def test_the_same_frames_give_the_same_bytes(tmp_path):
    for write, name in ((write_video, "a.mp4"), (write_gif, "a.gif")):
        write(tmp_path / name, moving_clip(6), 8)
        first = (tmp_path / name).read_bytes()
        write(tmp_path / name, moving_clip(6), 8)
        assert (tmp_path / name).read_bytes() == first


def test_gif_loops_forever_and_keeps_every_frame_V18(tmp_path):
    clip = np.concatenate([moving_clip(8, 37, 63), moving_clip(8, 37, 63)[-1:].repeat(8, 0)])  # the end stands still
    write_gif(tmp_path / "a.gif", clip, 8)
    with Image.open(tmp_path / "a.gif") as gif:
        durations = []
        for n in range(gif.n_frames):
            gif.seek(n)
            durations.append(gif.info["duration"])
        assert gif.info["loop"] == 0 and len(durations) == 16
        assert sum(durations) == 2000 and set(durations) == {120, 130}
    info, frames = read_all(tmp_path / "a.gif")
    assert info.frames == 16 and np.abs(frames.astype(int) - clip).mean() < 6


def test_frames_and_images_are_lossless_and_stale_frames_go(tmp_path):
    for count in (6, 4):
        write_frames(tmp_path / "frames", moving_clip(count))
    names = sorted(os.listdir(tmp_path / "frames"))
    assert names == ["00000.png", "00001.png", "00002.png", "00003.png"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "frames" / names[3])), moving_clip(4)[3])


def test_jpeg_images_are_close_and_in_full_colour(tmp_path):
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2], stripes[:, 1::2] = (255, 0, 0), (0, 0, 255)
    write_image(tmp_path / "a.jpg", stripes)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "JPEG" and np.abs(np.asarray(image).astype(int) - stripes).mean() < 5


WRITERS = [
    pytest.param(lambda path, clip: write_video(path.with_suffix(".mp4"), clip, 8), id="mp4"),
    pytest.param(lambda path, clip: write_gif(path.with_suffix(".gif"), clip, 8), id="gif"),
    pytest.param(lambda path, clip: write_image(path.with_suffix(".png"), clip[0]), id="png"),
    pytest.param(lambda path, clip: write_image(path.with_suffix(".jpg"), clip[0]), id="jpg"),
]


@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk_raises_and_leaves_the_old_file(tmp_path, write):
    noise = np.random.default_rng(0).integers(0, 256, (16, 128, 128, 3), np.uint8)
    write(tmp_path / "a", moving_clip(4))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # writing beyond 10 kB now fails like a full disk
    try:
        with pytest.raises(OSError) as error:
            write(tmp_path / "a", noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path / "a") in str(error.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_cut_short_in_silence_is_noticed(tmp_path, monkeypatch):
    replaced = []
    monkeypatch.setattr(os, "replace", lambda *paths: replaced.append(paths))
    probe = encoding.probe_video
    monkeypatch.setattr(encoding, "probe_video", lambda path: probe(cut(Path(path), 0.6)))
    with pytest.raises(OSError, match="of 16 frames"):
        write_video(tmp_path / "a.mp4", moving_clip(16), 8)
    assert not replaced and not list(tmp_path.iterdir())


def test_bad_arguments_are_value_errors(tmp_path):
    clip = moving_clip(2)
    for fps in (0, -1, float("nan"), float("inf")):
        for write in (write_video, write_gif):
            with pytest.raises(ValueError, match="fps"):
                write(tmp_path / "a.mp4", clip, fps)
    for frames in (clip[0], clip[:0], clip.astype(np.float32), clip[..., :2]):
        with pytest.raises(ValueError, match="uint8"):
            write_video(tmp_path / "a.mp4", frames, 8)
    assert not list(tmp_path.iterdir())
