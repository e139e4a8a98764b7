"""Video files in: what is no video, and what a file really holds."""

import json
import os
from contextlib import closing
from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest

from tests.clips import audio_only, cut, damage, encode, has_encoder, moving_clip
from tests.decoding.reading import assert_looks_like, read_all
from utils.data.find_videos import find_videos
from utils.decoding import source
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.decoding.source import Source
from utils.decoding.video_info import Section, VideoError, VideoInfo


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "empty file"),
        (b"just some text, long enough to be looked at", "not a video"),
        (b"ffconcat version 1.0\nfile other.mp4\n", "not a video"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n", "not a video"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "not a video"),
        (b"\0\0\0\x18ftypisom" + bytes(99), "truncated: no index (moov) can be read"),
        (b"\x1aE\xdf\xa3" + bytes(99), "damaged: it cannot be opened"),
    ],
    ids=["V1", "V2", "V33-ffconcat", "V33-m3u8", "png", "V3", "broken-mkv"],
)
def test_what_is_no_video_is_refused_with_its_reason(tmp_path, content, reason):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError) as error:
        probe_video(path)
    assert str(error.value) == reason


def test_a_playlist_behind_a_video_header_opens_no_other_file_V33(tmp_path, monkeypatch):
    """Even past the first look at the bytes, no demuxer may follow a playlist."""
    encode(tmp_path / "other.mp4", moving_clip(4))
    playlist = tmp_path / "list.mp4"
    playlist.write_text("ffconcat version 1.0\nfile other.mp4\n")
    monkeypatch.setattr(source, "check_file", lambda path, section: None)
    for section in (None, Section(str(playlist), 0, playlist.stat().st_size)):
        with pytest.raises(VideoError, match="cannot be opened"):
            Source(str(playlist), section=section)


def test_a_fifo_never_hangs_and_links_are_named_V26_V28_V29(tmp_path):
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nothing.mp4")
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    reasons = {}
    for path in tmp_path.iterdir():
        with pytest.raises(VideoError) as error:
            probe_video(path)
        reasons[path.stem] = str(error.value)
    assert "FIFO" in reasons["fifo"] and reasons["folder"] == "a directory without pictures"
    assert reasons["gone"] == reasons["loop"] == "broken link"
    with pytest.raises(VideoError, match="No such file"):
        probe_video(tmp_path / "absent.mp4")


def test_audio_only_has_no_video_stream_V7(tmp_path):
    with pytest.raises(VideoError, match="no video stream"):
        probe_video(audio_only(tmp_path / "sound.mp4"))


def test_truncated_files_say_what_is_left_V3_V4(tmp_path):
    faststart = {"movflags": "+faststart"}
    for name, fraction, container, reason in (
        ("no-index", 0.7, {}, r"truncated: no index"),
        ("no-data", 0, faststart, "truncated: the header says 32 frames, 0 can be decoded"),
    ):
        path = cut(encode(tmp_path / f"{name}.mp4", moving_clip(32), container=container), fraction)
        with pytest.raises(VideoError, match=reason):
            probe_video(path)
    info, frames = read_all(cut(encode(tmp_path / "half.mp4", moving_clip(32), container=faststart), 0.6))
    assert 5 < info.frames < 30 and f"header says 32 frames, {info.frames} decode" in info.notes
    assert_looks_like(frames[:5], moving_clip(32)[:5])


def test_a_frame_that_decodes_is_all_that_counts_V6_V8_V10(tmp_path):
    for count in (1, 2, 16):
        info, frames = read_all(encode(tmp_path / f"{count}.mp4", moving_clip(count)))
        assert info.frames == len(frames) == count and info.fps == 10 and info.notes == ()


def test_variable_frame_rate_gives_times_V13(tmp_path):
    ticks = [0, 33, 66, 100, 133, 166, 500, 833, 1166, 1500]
    for name in ("a.mp4", "a.mkv"):
        info, frames = read_all(encode(tmp_path / name, moving_clip(10), ticks=ticks))
        assert np.allclose(info.times, np.array(ticks) / 1000, atol=0.002)
        assert info.fps == pytest.approx(9 / 1.5, rel=0.01) and info.gaps == ()
        assert_looks_like(frames, moving_clip(10))


def test_times_rounded_by_the_container_are_a_constant_rate(tmp_path):
    info = probe_video(encode(tmp_path / "a.mkv", moving_clip(60, 16, 16), fps=30))  # 33, 67, 100 ms, ...
    assert info.fps == 30 and info.times is None


@pytest.mark.parametrize("rotation", [90, 180, 270])
@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
def test_rotated_video_is_shown_upright_V12(tmp_path, codec, rotation):
    if not has_encoder(codec):
        pytest.skip(f"this PyAV has no {codec}")
    clip = moving_clip(4, 48, 64)
    info, frames = read_all(encode(tmp_path / "a.mp4", clip, codec, rotation=rotation))
    upright = np.rot90(clip, rotation // 90, (1, 2))
    assert (info.height, info.width) == upright.shape[1:3]
    assert_looks_like(frames, upright, 12)


@pytest.mark.skipif(not has_encoder("libsvtav1"), reason="this PyAV has no AV1 encoder")
def test_av1_is_read_V17(tmp_path):
    info, frames = read_all(encode(tmp_path / "a.mp4", moving_clip(8), "libsvtav1"))
    assert (info.codec, info.frames, info.fps) == ("av1", 8, 10)
    assert_looks_like(frames, moving_clip(8), 12)


@pytest.mark.parametrize(
    "name, codec, pix_fmt, size",
    [
        ("a.mp4", "libx264", "yuv420p10le", (64, 64)),
        ("a.mp4", "libx265", "yuv420p", (64, 64)),
        ("a.mp4", "libx264", "yuv444p", (37, 63)),
        ("a.mov", "qtrle", "argb", (37, 63)),
        ("a.mkv", "ffv1", "bgr0", (37, 63)),
        ("a.webm", "libvpx-vp9", "yuva420p", (64, 64)),
        ("A.AVI", "mpeg4", "yuv420p", (64, 64)),
        ("a.mpg", "mpeg2video", "yuv420p", (64, 64)),
        ("a.ts", "libx264", "yuv420p", (64, 64)),
        ("a.m2ts", "libx264", "yuv420p", (64, 64)),
        ("a.flv", "libx264", "yuv420p", (64, 64)),
        ("a.wmv", "mpeg4", "yuv420p", (64, 64)),
    ],
    ids=lambda value: str(value).replace(" ", ""),
)
def test_every_common_format_is_read_V11_V15_V16_V20_V21_V32(tmp_path, name, codec, pix_fmt, size):
    if not has_encoder(codec):
        pytest.skip(f"this PyAV has no {codec}")
    clip = moving_clip(8, *size)
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    info, frames = read_all(encode(tmp_path / name, clip, codec, pix_fmt, fps=25, options=options))
    assert find_videos(tmp_path) == [tmp_path / name]
    assert (info.frames, info.fps, info.gaps, info.times) == (8, 25, (), None)
    assert_looks_like(frames, clip, 14)


def test_grey_video_has_three_equal_channels_V19(tmp_path):
    _, frames = read_all(encode(tmp_path / "a.mp4", moving_clip(4), pix_fmt="gray"))
    assert (frames == frames[..., :1]).all()


def test_opencv_sees_the_same_pixels_V15(tmp_path):
    for pix_fmt in ("yuv420p", "yuv420p10le", "yuvj420p"):
        path = encode(tmp_path / f"{pix_fmt}.mp4", moving_clip(4), pix_fmt=pix_fmt)
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        theirs = np.stack([capture.read()[1][..., ::-1] for _ in range(4)]).astype(float)
        capture.release()
        assert np.square(read_all(path)[1] - theirs).mean() < 6.5  # a PSNR of 40 dB


def test_a_size_that_changes_inside_the_stream_is_noted_V23(tmp_path):
    parts = [
        encode(tmp_path / f"{width}.ts", moving_clip(8, 64, width), "mpeg2video", fps=25).read_bytes()
        for width in (64, 128)
    ]
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    info, frames = read_all(tmp_path / "both.ts")
    assert info.frames > 12 and frames.shape[1:] == (64, 64, 3)
    assert any(note.startswith("size changes") for note in info.notes)


def test_huge_frames_are_refused_before_the_first_read_V22(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mp4", moving_clip(2))
    monkeypatch.setattr(Source, "packets", lambda self: pytest.fail("a packet was read"))
    with pytest.raises(VideoError, match="64x64 is more than the limit of 4000 pixels"):
        probe_video(path, max_pixels=4000)


@pytest.mark.parametrize(
    "name", ["猫 ü.mp4", "a\nb.mp4", "-dash.mp4", "%02d.mp4", "a:b.mp4", "file:x.mp4", b"\xff.mp4"]
)
def test_strange_names_are_only_names_V24_V25(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(name)
    os.rename(encode("plain.mp4", moving_clip(2)), name)
    info = probe_video(name)
    assert info.frames == 2 and info.path == str(tmp_path / name)
    assert len(read_frames(info, [1])) == 1


def test_probing_prints_nothing(tmp_path, capfd):
    probe_video(damage(encode(tmp_path / "a.mp4", moving_clip(16)), 8))
    with pytest.raises(VideoError):
        probe_video(cut(encode(tmp_path / "b.mp4", moving_clip(16)), 0.5))
    assert capfd.readouterr() == ("", "")


def test_video_info_survives_json(tmp_path):
    info = probe_video(damage(encode(tmp_path / "a.mp4", moving_clip(20), ticks=[n * n for n in range(20)]), 8))
    assert info.times and info.notes
    assert VideoInfo(**json.loads(json.dumps(asdict(info)))) == info


@pytest.mark.parametrize("codec, pixel_format", [("libx264", "yuv420p"), ("mpeg4", "yuv420p"), ("mjpeg", "yuvj420p")])
def test_an_mp4_is_opened_for_counting_without_decoding_a_frame_and_found_the_same(tmp_path, codec, pixel_format):
    """FFmpeg decodes frames when it opens a file, half of the time that counting its packets takes."""
    path = tmp_path / "a.mp4"
    encode(path, moving_clip(30), codec, pixel_format, fps=25)
    with closing(Source(str(path))) as usual, closing(Source(str(path), counting=True)) as counting:
        assert usual.decoder.pix_fmt == pixel_format and (counting.decoder.pix_fmt is None or codec != "libx264")
        assert (usual.size, usual.time_base) == (counting.size, counting.time_base)
        assert [(p.pts, p.is_keyframe) for p in usual.packets()] == [(p.pts, p.is_keyframe) for p in counting.packets()]
    decoded, counted = probe_video(path), probe_video(path, decode=False)
    assert not counted.verified and replace(counted, verified=True) == decoded
