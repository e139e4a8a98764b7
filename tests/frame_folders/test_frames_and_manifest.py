"""Videos to frame folders: what is in them, and what the manifest says."""

import json
import os
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.clips import damage, encode, panning_clip
from tests.decoding.making import write, yuv_frame
from tests.frame_folders.preparing import frames_of, manifest, prepare
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.decoding.video_info import VideoInfo
from utils.frame_folders import clip_writer
from utils.frame_folders.clip_writer import find_cut
from utils.motion.score import MOTION_MEASURE, motion_score
from utils.video.encode import write_video
from utils.video.frame_windows import sample_segment


def test_every_video_becomes_a_numbered_folder_of_exactly_its_frames(videos, whole):
    rows = manifest(whole)
    assert list(rows) == ["a.mp4", "b.MKV", "d9.mp4", "d10.webm"]  # natural order
    assert {row.get("folder") for row in rows.values()} == {"video_0001", "video_0002", None, "video_0004"}
    assert sorted(path.name for path in whole.iterdir() if path.is_dir()) == [
        *(".prepare", "video_0001", "video_0002", "video_0004")
    ]
    for source, row in rows.items():
        if "folder" in row:
            info = probe_video(videos / source)
            assert sorted(os.listdir(whole / row["folder"])) == [f"{n:05d}.png" for n in range(info.frames)]
            assert np.array_equal(frames_of(whole / row["folder"]), read_frames(info, range(info.frames)))


@pytest.mark.parametrize("limit", [1, 22, 25])
def test_max_frames_are_the_first_ones_or_all_there_are(videos, tmp_path, limit):
    rows = prepare(videos, tmp_path / "out", "--max_frames", str(limit), "--min_frames", "1")
    for source, count in (("a.mp4", 20), ("b.MKV", 24), ("d10.webm", 28)):
        frames = frames_of(tmp_path / "out" / rows[source]["folder"])
        assert rows[source]["frames"] == len(frames) == min(limit, count)
        assert np.array_equal(frames[-1], read_frames(probe_video(videos / source), [len(frames) - 1])[0])


@pytest.mark.parametrize(
    "flags, fps, indices",
    [
        ([], 10, range(24)),
        (["--frame_stride", "3"], 10 / 3, range(0, 24, 3)),
        (["--target_fps", "5"], 5, range(0, 24, 2)),
        (["--target_fps", "4"], 4, [0, 2, 5, 7, 10, 12, 15, 17, 20, 22]),
        (["--target_fps", "30"], 10, range(24)),  # never more than there are
    ],
)
def test_the_rate_in_the_manifest_is_that_of_the_frames(videos, tmp_path, flags, fps, indices):
    row = prepare(videos, tmp_path / "out", *flags)["b.MKV"]
    assert row["fps"] == pytest.approx(fps, abs=1e-6) and row["source_fps"] == 10
    assert (row["first_frame"], row["last_frame"]) == (indices[0], indices[-1])
    expected = read_frames(probe_video(videos / "b.MKV"), list(indices))
    assert np.array_equal(frames_of(tmp_path / "out" / row["folder"]), expected)


def test_a_variable_rate_is_sampled_by_time():
    times = (0.0, 0.1, 0.2, 0.3, 0.4, 1.4)
    info = VideoInfo("x", 6, 5 / 1.4, 8, 8, "h264", "opencv", times=times)
    indices, fps = sample_segment(info, 0, 6, 5, 1)
    assert indices.tolist() == [0, 2, 4, 4, 4, 5, 5, 5] and fps == 5  # the picture stood still for a second
    indices, fps = sample_segment(info, 0, 6, None, 2)
    assert indices.tolist() == [0, 2, 4] and fps == pytest.approx(5)


def test_a_rotated_video_is_written_upright(tmp_path):
    (tmp_path / "in").mkdir()
    encode(tmp_path / "in/a.mp4", panning_clip(0.1, height=48, width=64), rotation=90)
    row = prepare(tmp_path / "in", tmp_path / "out", "--max_frames", "3")["a.mp4"]
    assert (row["width"], row["height"]) == (48, 64)
    frames = frames_of(tmp_path / "out/video_0001")
    upright = np.rot90(panning_clip(0.1, height=48, width=64), 1, (1, 2))[:3]
    assert np.abs(frames - upright.astype(float)).mean() < 8


@pytest.mark.parametrize("mode", ["crop", "pad", "stretch"])
def test_size_and_format_are_those_asked_for(videos, tmp_path, mode):
    flags = ["--size", "40x40", "--resize_mode", mode, "--format", "jpg", "--max_frames", "4"]
    row = prepare(videos, tmp_path / "out", *flags)["a.mp4"]
    frames = frames_of(tmp_path / "out/video_0001")
    assert sorted(os.listdir(tmp_path / "out/video_0001")) == [f"0000{n}.jpg" for n in range(4)]
    assert frames.shape == (4, 40, 40, 3) and (row["width"], row["height"]) == (40, 40)
    assert (frames[:, 0].max() < 20) == (mode == "pad")


def test_the_manifest_says_where_each_clip_comes_from_and_how_much_it_moves(videos, tmp_path):
    rows = prepare(videos, tmp_path / "out", "--license", "CC-BY 4.0")
    for source in ("a.mp4", "b.MKV", "d10.webm"):
        row, frames = rows[source], frames_of(tmp_path / "out" / rows[source]["folder"])
        assert row["sha256"] == clip_writer._sha256(videos / source) and len(row["sha256"]) == 64
        assert (row["frames"], row["height"], row["width"], 3) == frames.shape
        assert row["license"] == "CC-BY 4.0" and row["notes"] == []
        assert row["motion_score"] == pytest.approx(motion_score(frames, row["fps"]), abs=1e-6)
        assert row["motion_measure"] == MOTION_MEASURE
    assert [rows[source]["motion_bucket_id"] for source in ("a.mp4", "b.MKV", "d10.webm")] == [86, 170, 255]
    assert rows["d9.mp4"].keys() == {"rejected", "source", "license"} and rows["d9.mp4"]["rejected"] == "not a video"


def test_motion_and_license_can_change_without_converting_again(videos, tmp_path):
    shutil.copytree(videos, tmp_path / "in")
    prepare(tmp_path / "in", tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    rows = prepare(tmp_path / "in", tmp_path / "out", "--motion", "const", "--license", "mine")
    assert {row["motion_bucket_id"] for row in rows.values() if "folder" in row} == {127}
    assert {row["license"] for row in rows.values()} == {"mine"}
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}


def test_short_static_black_cut_and_duplicate_clips_are_rejected_unless_kept(tmp_path, capsys):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    clip = panning_clip(0.1)
    write_video(folder / "a.mp4", clip, 10)
    shutil.copy(folder / "a.mp4", folder / "b_copy.mp4")
    with av.open(str(folder / "a.mp4")) as source, av.open(str(folder / "c_remux.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    write_video(folder / "d_black.mp4", np.maximum(clip // 16, 4), 10)
    write_video(folder / "e_static.mp4", np.repeat(clip[:1], 20, axis=0), 10)
    write_video(folder / "f_cut.mp4", np.concatenate([clip[:12], 255 - clip[12:]]), 10)
    flash = clip[::-1].copy()
    flash[9] = 255 - flash[9] // 2
    write_video(folder / "g_flash.mp4", flash, 10)
    write_video(folder / "h_short.mp4", clip[:3], 10)
    reasons = {source: row.get("rejected") for source, row in prepare(folder, output, "--min_frames", "4").items()}
    assert reasons == {
        "a.mp4": None,
        "b_copy.mp4": "duplicate of video_0001",
        "c_remux.mkv": "duplicate of video_0001",
        "d_black.mp4": "black",
        "e_static.mp4": "static",
        "f_cut.mp4": "cut inside; --scenes would split it",
        "g_flash.mp4": None,
        "h_short.mp4": "fewer than 4 frames",
    }
    assert manifest(output)["f_cut.mp4"]["cut_frame"] == 12
    assert manifest(output)["e_static.mp4"]["motion_score"] < 0.001
    assert sorted(path.name for path in output.glob("video_*")) == ["video_0001", "video_0007"]
    assert "2 clips, 40 frames\n6 rejected:\n  2 x duplicate of video_0001: b_copy.mp4, c_remux.mkv" in (
        capsys.readouterr().out
    )
    rows = prepare(folder, tmp_path / "all", "--keep", "black", "static", "cut", "duplicate")
    assert len(list((tmp_path / "all").glob("video_*"))) == 8 and not any("rejected" in row for row in rows.values())


def test_a_cut_stands_out_and_neither_a_flash_nor_fast_motion_does():
    assert find_cut([1, 1, 40, 1]) == 3 and find_cut([40, 1]) == 1 and find_cut([1, 30, 1, 50, 2]) == 4
    assert [find_cut(jumps) for jumps in ([], [40], [1, 40, 40, 1], [30, 40, 35], [1, 10, 1])] == [None] * 5


def test_frames_are_never_taken_from_both_sides_of_a_gap(tmp_path):
    (tmp_path / "in").mkdir()
    damage(encode(tmp_path / "in/a.mp4", panning_clip(0.1, 40), options={"bf": "0", "g": "10"}), 21)
    row = prepare(tmp_path / "in", tmp_path / "out")["a.mp4"]
    assert (row["first_frame"], row["last_frame"], row["frames"]) == (0, 20, 21)
    assert any("only frames 0 to 20" in note for note in row["notes"])


def test_scenes_become_clips_without_a_cut(tmp_path):
    pytest.importorskip("scenedetect")
    scenes = [panning_clip(0.1, count, seed=seed) for seed, count in ((1, 20), (2, 3), (3, 25))]
    (tmp_path / "in").mkdir()
    output, video = tmp_path / "out", encode(tmp_path / "in/a.mp4", np.concatenate(scenes))
    prepare(tmp_path / "in", output, "--scenes", "--min_frames", "8", "--max_frames", "22")
    rows = [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]
    spans = [(row.get("folder"), row["first_frame"], row["last_frame"]) for row in rows]
    assert spans == [("video_0001_001", 0, 19), (None, 20, 22), ("video_0001_003", 23, 44)]
    assert rows[1]["rejected"] == "fewer than 8 frames"
    expected = read_frames(probe_video(video), range(23, 45))
    assert np.array_equal(frames_of(output / "video_0001_003"), expected)


def test_what_was_done_to_the_pixels_is_printed(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    frames = [yuv_frame("yuv420p", [16 + 8 * n, 128, 128]) for n in range(8)]
    write(tmp_path / "in" / "wide.mp4", frames, "libx264", sample_aspect_ratio=Fraction(2))
    prepare(tmp_path / "in", tmp_path / "out", "--keep", "static", "black")
    assert "1 x note: its pixels are not square: 64x64 is shown as 128x64: wide.mp4" in capsys.readouterr().out
