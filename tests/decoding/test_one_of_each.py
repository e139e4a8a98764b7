"""A folder that holds one of each kind of file, all of the same pan: both trainers run on it, and see that pan."""

import json

import av
import numpy as np
import pytest
from PIL import Image

from tests.clips import cut, damage, encode, has_encoder, panning_clip
from tests.decoding.making import write
from tests.decoding.test_shape import marked
from tests.decoding.test_streams import mux
from tests.frame_folders.preparing import frames_of, prepare
from tests.svd.running import train as train_svd
from tests.text2video.running import losses, train
from tests.tiny_svd import tiny_svd_pipeline
from video_dataset import main, parse_args

COUNT = 12
PAN = panning_clip(0.3, COUNT, height=48, width=64)
NARROW = PAN[:, :, ::2]  # stored so, shown twice as wide
CODED = {  # name: codec, pixel format, options
    "h264.mp4": ("libx264", "yuv420p", {"bf": "2"}),
    "open_gop.mkv": ("libx264", "yuv444p", {"x264-params": "open-gop=1:keyint=6:bframes=3"}),
    "hevc.mp4": ("libx265", "yuv420p10le", {"x265-params": "log-level=none"}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {}),
    "alpha.webm": ("libvpx-vp9", "yuva420p", {}),
    "av1.mp4": ("libsvtav1", "yuv420p", {}),
    "xvid.avi": ("mpeg4", "yuv420p", {"qmax": "4"}),
    "dvd.mpg": ("mpeg2video", "yuv420p", {"qmax": "4"}),
    "broadcast.ts": ("libx264", "yuv420p", {}),
    "prores.mov": ("prores_ks", "yuv422p10le", {}),
    "photo.mov": ("mjpeg", "yuvj420p", {"qmax": "4"}),
    "archive.mkv": ("ffv1", "yuv444p16le", {}),
    "flash.flv": ("libx264", "yuv420p", {}),
    "loop.gif": ("gif", "rgb8", {}),
}
REFUSED = {"cut.mp4", "text.mp4", "empty.webm"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("each") / "data"
    videos = folder / "videos"
    videos.mkdir(parents=True)
    for name, (codec, pixel_format, options) in CODED.items():
        if has_encoder(codec):
            encode(videos / name, PAN, codec, pixel_format, 10, {"g": "6"} | options if codec != "gif" else {})
    encode(videos / "turned.mp4", np.rot90(PAN, axes=(1, 2)), rotation=270)
    encode(videos / "variable.mp4", PAN, ticks=[0, 40, 90, 160, 200, 300, 420, 460, 500, 660, 700, 800])
    damage(encode(videos / "damaged.mp4", PAN, options={"bf": "0", "g": "6"}), 9)
    wide = [av.VideoFrame.from_ndarray(np.ascontiguousarray(f), "rgb24").reformat(format="yuv420p") for f in NARROW]
    write(videos / "narrow.mp4", wide, "libx264", {"crf": "12"}, sample_aspect_ratio=2)
    plain = [av.VideoFrame.from_ndarray(frame, "rgb24").reformat(format="yuv420p") for frame in PAN]
    fields = [marked(frame, "tff") for frame in plain]
    write(videos / "interlaced.mp4", fields, "libx264", {"x264-params": "tff=1", "crf": "12"})
    ten = [frame.reformat(format="yuv420p10le") for frame in plain]
    hlg = {"color_trc": 18, "color_primaries": 9, "color_range": 1}
    write(videos / "hdr.mp4", ten, "libx265", {"x265-params": "log-level=none"}, matrix="bt2020", **hlg)
    cover = np.full((96, 96, 3), (0, 0, 255), np.uint8)
    mux(
        videos / "cover.mkv", [("mjpeg", [cover], av.stream.Disposition(0)), ("libx264", PAN, av.stream.Disposition(0))]
    )
    cut(encode(videos / "cut.mp4", PAN), 0.6)
    (videos / "text.mp4").write_text("an error page, long enough to be looked at")
    (videos / "empty.webm").write_bytes(b"")
    (videos / "frames").mkdir()
    for n, frame in enumerate(PAN):
        Image.fromarray(frame).save(videos / "frames" / f"{n}.png")  # 10 comes after 9
    (folder / "captions").mkdir()
    for path in videos.iterdir():
        (folder / "captions" / f"{path.stem}.txt").write_text(f"a pan to the left, {path.stem}")
    return folder


def test_the_check_counts_each_and_says_what_is_not_plain(folder):
    main(parse_args(["--check", str(folder), "--num_frames", "4", "--frame_size", "16"]))
    report = json.loads((folder / "dataset_report.json").read_text())
    assert report["ok"] == len(list((folder / "videos").iterdir())) - len(REFUSED)
    assert {name for names in report["findings"].values() for name in names} == REFUSED
    notes = {name: " ".join(said) for name, said in report["notes"].items()}
    for name, said in {
        "narrow.mp4": "not square",
        "turned.mp4": "turned by",
        "interlaced.mp4": "bwdif",
        "hdr.mp4": "HLG",
        "cover.mkv": "what a player shows",
        "damaged.mp4": "undecodable packet",
    }.items():
        assert said in notes[name], (name, notes.get(name))
    assert not notes.keys() & {
        "h264.mp4",
        "hevc.mp4",
        "av1.mp4",
        "vp9.webm",
        "broadcast.ts",
        "dvd.mpg",
        "flash.flv",
        "frames",
    }


def test_text_to_video_trains_on_it(folder, tmp_path):
    flags = "--num_frames 4 --frame_size 16 --max_train_steps 4 --batch_size 8 --val_fraction 0.1"
    train(folder, tmp_path / "run", *flags.split())
    assert len(losses(tmp_path / "run")) == 4


def test_svd_trains_on_the_frames_of_it_and_all_show_the_pan(folder, tmp_path):
    rows = prepare(folder / "videos", tmp_path / "out", "--size", "64x48", "--keep", "duplicate", "static")
    prepared = {name: frames_of(tmp_path / "out" / row["folder"]) for name, row in rows.items() if "folder" in row}
    assert {name for name, row in rows.items() if "rejected" in row} == REFUSED
    assert prepared.keys() == {path.name for path in (folder / "videos").iterdir() if path.is_file()} - REFUSED
    for name, frames in prepared.items():
        if name == "damaged.mp4":
            assert 0 < len(frames) < COUNT and min(np.abs(frames[0].astype(int) - frame).mean() for frame in PAN) < 9
            continue
        assert frames.shape == PAN.shape, name
        if name == "hdr.mp4":  # what is 75% there is white here
            assert np.corrcoef(frames.ravel(), PAN.ravel())[0, 1] > 0.9
        else:
            assert np.abs(frames.astype(int) - PAN).mean() < (20 if name == "loop.gif" else 9), name
    tiny_svd_pipeline().save_pretrained(tmp_path / "svd")
    train_svd(tmp_path / "svd", tmp_path / "out", tmp_path / "run", "--max_train_steps", 2)
    assert (tmp_path / "run" / "model_index.json").exists()
