"""Maps made by prepare_dataset.py, and the report of video_dataset.py --check."""

import json

import numpy as np
import pytest
import torch
from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

import prepare_dataset
import video_dataset
from tests.text2video.running import train
from utils.cli import UserError
from utils.conditions.making import FLOW_SCALE, edges_of, flow_of
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.video.encode import write_video


def moving(step: int = 2, frames: int = 6) -> np.ndarray:
    """A textured square that goes right by `step` px a frame over grey, 48x64."""
    texture = np.random.default_rng(0).integers(60, 255, (8, 8)).repeat(3, 0).repeat(3, 1).astype(np.uint8)
    found = np.full((frames, 48, 64, 3), 40, np.uint8)
    for n, frame in enumerate(found):
        frame[12:36, 8 + n * step : 32 + n * step] = texture[..., None]
    return found


def test_flow_is_what_moved_in_eighths_of_the_frame():
    flow = flow_of(moving(step=2))
    assert flow.shape == (6, 48, 64, 2) and flow.dtype == np.float16
    dx, dy = np.median(flow[2, 16:32, 16:32].reshape(-1, 2).astype(float), axis=0) * 64 / FLOW_SCALE
    assert dx == pytest.approx(2, abs=0.2) and dy == pytest.approx(0, abs=0.2)
    assert np.array_equal(flow[-1], flow[-2]) and np.abs(flow_of(np.zeros_like(moving()))).max() == 0


def test_edges_are_where_the_picture_changes():
    frames = np.full((1, 40, 40, 3), 50, np.uint8)
    frames[:, 10:30, 10:30] = 200
    edges = edges_of(frames)
    assert set(np.unique(edges)) == {0, 255} and edges[0, 20, 8:13].max() == 255
    assert edges[0, 14:26, 14:26].max() == 0 and edges[0, :6].max() == 0


@pytest.fixture(scope="module")
def depth_model(tmp_path_factory):
    """A dense prediction transformer with random weights."""
    folder = tmp_path_factory.mktemp("depth") / "dpt"
    config = DPTConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        is_hybrid=False,
    )
    model = DPTForDepthEstimation(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    DPTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def prepare(videos, output, *flags):
    argv = ["--video_dir", videos, "--output_dir", output, "--captions", "--num_workers", 0, "--keep", "static", *flags]
    prepare_dataset.main(prepare_dataset.parse_args([*map(str, argv)]))


def test_prepared_clips_get_maps_that_training_reads(depth_model, tmp_path, capsys):
    videos = tmp_path / "videos"
    videos.mkdir()
    for name, step in (("a", 1), ("b", 2)):
        write_video(videos / f"{name}.mp4", moving(step), 8)
        (videos / f"{name}.txt").write_text("a square moving right")
    out = tmp_path / "out"
    prepare(videos, out, "--depth", depth_model, "--edges", "--flow")
    said = capsys.readouterr().out
    assert "6 maps made: depth, edges, flow; train_text2video.py --maps depth edges flow learns them" in said
    info = probe_video(out / "depth" / "video_0001")
    depth = read_frames(info, range(info.frames))
    assert depth.shape == (6, 48, 64, 3) and (depth.min(), depth.max()) == (0, 255)
    assert np.load(out / "flow" / "video_0002.npy").shape == (6, 48, 64, 2)
    prepare(videos, out, "--edges", "--flow")
    assert "0 maps made" in capsys.readouterr().out
    train(out, tmp_path / "run", "--maps", "depth", "edges", "flow", "--max_train_steps", "2", "--val_fraction", "0.5")
    assert "conditions: depth, edges, flow" in capsys.readouterr().out


def test_what_is_no_depth_model_is_one_line(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    write_video(videos / "a.mp4", moving(), 8)
    (videos / "a.txt").write_text("a square")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="--depth: .*empty is no model of transformers' depth estimation"):
        prepare(videos, tmp_path / "out", "--depth", tmp_path / "empty")


def test_the_check_of_a_folder_says_what_conditions_lack(data, tmp_path, capsys):
    import shutil

    folder = shutil.copytree(data, tmp_path / "data")
    flags = [
        "--check",
        str(folder),
        "--num_frames",
        "4",
        "--frame_size",
        "16",
        "--maps",
        "depth",
        "--vectors",
        "--audio",
    ]
    video_dataset.main(video_dataset.parse_args(flags))
    assert "conditions depth, vectors, audio: every clip has them" in capsys.readouterr().out
    (folder / "depth" / "clip_00003.mp4").unlink()
    np.save(folder / "depth" / "clip_00004.npy", np.zeros((5, 8, 8), np.uint8))
    (folder / "depth" / "clip_00004.mp4").unlink()
    video_dataset.main(video_dataset.parse_args(flags))
    said = capsys.readouterr().out
    assert "conditions depth, vectors, audio of 12 clips:" in said
    assert "1 x depth: no file: clip_00003.mp4" in said
    assert "1 x depth: has 5 frames, its clip 6: clip_00004.mp4" in said
    report = json.loads((folder / "dataset_report.json").read_text())
    assert report["conditions"]["depth: no file"] == ["clip_00003.mp4"]
