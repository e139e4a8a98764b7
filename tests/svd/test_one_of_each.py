"""Both trainers on a folder that holds a clip of each kind that people have, captions beside them."""

import json
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

import prepare_dataset
from tests.clips import encode, moving_clip
from tests.decoding.making import write, yuv_frame
from tests.decoding.test_pixels import hlg, transparent_square
from tests.decoding.test_shape import bar, interlaced, with_matrix
from tests.decoding.test_streams import BLUE, DEFAULT, NONE, mux
from tests.svd.running import losses, train
from tests.text2video.running import losses as text2video_losses
from tests.text2video.running import train as train_text2video
from video_dataset import main, parse_args

CLIP = moving_clip(12, 64, 96)


def grey_at(nits: float) -> list:
    return [yuv_frame("yuv420p10le", [round(hlg(nits) * 876) + 64 - 4 * n, 512, 512]) for n in range(12)]


# Of each kind: how it is made, and what the report says of it.
KINDS = {
    "plain.mp4": (lambda path: encode(path, CLIP), None),
    "moving_gif.gif": (lambda path: encode(path, CLIP, "gif", "rgb8"), None),
    "irregular.mkv": (lambda path: encode(path, CLIP, ticks=[0, 90, *range(210, 1210, 100)]), None),
    "turned.mp4": (lambda path: with_matrix(path, CLIP, (0, 1, -1, 0)), "turned by 270 degrees"),
    "fields.mp4": (
        lambda path: write(path, interlaced(12, True), "libx264", {"x264-params": "tff=1"}, 25),
        "interlaced",
    ),
    "narrow.mkv": (
        lambda path: write(
            path,
            [yuv_frame("yuv420p", [bar(4 * n, length=64), 128, 128]) for n in range(12)],
            "libx264",
            sample_aspect_ratio=Fraction(2),
        ),
        "its pixels are not square: 64x96 is shown as 128x96",
    ),
    "bright.mkv": (
        lambda path: write(path, grey_at(203), matrix="bt2020", color_trc=18, color_primaries=9),
        "HDR (HLG), mapped to SDR",
    ),
    "glass.webm": (
        lambda path: write(path, transparent_square("yuva420p"), "libvpx-vp9", {"lossless": "1"}),
        "what is transparent becomes white",
    ),
    "covered.mkv": (
        lambda path: mux(path, [("mjpeg", [BLUE], NONE), ("libx264", list(CLIP), DEFAULT)]),
        "1 more video stream; what a player shows is read (96x64)",
    ),
    "grey.mkv": (lambda path: write(path, [yuv_frame("gray16le", [9000 + 2000 * n]) for n in range(12)]), None),
    "broken.mp4": (lambda path: path.write_bytes(encode(path, CLIP).read_bytes()[:-3000]), "truncated"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_of_each")
    for name, (make, _) in KINDS.items():
        make(folder / name)
        (folder / name).with_suffix(".txt").write_text(f"a {name.partition('.')[0]} clip")
    (folder / "pictures").mkdir()
    for n, frame in enumerate(CLIP):
        Image.fromarray(frame).save(folder / "pictures" / f"{n}.png")
    (folder / "pictures.txt").write_text("a clip of pictures")
    return folder


def test_the_check_says_of_each_what_was_done_to_it(folder, capsys):
    main(parse_args(["--check", str(folder), "--num_frames", "8"]))
    said = capsys.readouterr().out
    assert "11 of 12 videos are usable" in said
    for name, (_, note) in KINDS.items():
        assert note is None or any(note in line and name in line for line in said.splitlines()), (name, said)


def test_text_to_video_trains_on_one_of_each(folder, tmp_path):
    train_text2video(folder, tmp_path / "run", "--num_frames", "8", "--max_train_steps", "12", "--batch_size", "1")
    assert len(text2video_losses(tmp_path / "run")) == 12 and np.isfinite(text2video_losses(tmp_path / "run")).all()


def test_svd_trains_on_one_of_each(folder, pipeline_dir, tmp_path):
    argv = [
        "--video_dir",
        folder,
        "--output_dir",
        tmp_path / "dataset",
        "--num_workers",
        0,
        "--keep",
        "static",
        "duplicate",
    ]
    prepare_dataset.main(prepare_dataset.parse_args([str(word) for word in (*argv, "--captions")]))
    rows = [json.loads(line) for line in (tmp_path / "dataset" / "manifest.jsonl").read_text().splitlines()]
    kept = {row["source"] for row in rows if "folder" in row}
    assert kept == KINDS.keys() - {"broken.mp4"}
    notes = {row["source"]: " ".join(row.get("notes", ())) for row in rows}
    assert all(note is None or note in notes[name] for name, (_, note) in KINDS.items() if name in kept)
    train(pipeline_dir, tmp_path / "dataset", tmp_path / "run", "--max_train_steps", 10, "--train_batch_size", 1)
    assert len(losses(tmp_path / "run")) == 10 and np.isfinite(losses(tmp_path / "run")).all()
