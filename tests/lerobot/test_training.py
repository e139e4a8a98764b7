"""A folder of LeRobot's is trained on as it lies."""

import json

import pytest

import generate_text2video
import video_dataset
from tests.lerobot.datasets import CAMERAS, write_lerobot
from tests.text2video.running import losses, train
from utils.runs.model_file import load_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_lerobot(tmp_path_factory.mktemp("robots") / "data")


def test_actions_of_episodes_steer_a_model(folder, tmp_path):
    flags = (
        "--cameras",
        "front",
        "wrist",
        "--num_frames",
        "8",
        "--height",
        "16",
        "--width",
        "32",
        "--vectors",
        "action",
    )
    train(folder, tmp_path / "run", *flags, "--max_train_steps", "2", "--tasks", "text=1", "first_frame=1")
    assert len(losses(tmp_path / "run")) == 2
    model = load_model(tmp_path / "run")
    assert model["conditions"]["vectors"]["action"]["names"] == ["dx", "dy"]
    assert model["data"]["cameras"] == ["front", "wrist"]
    actions = tmp_path / "actions.csv"
    actions.write_text("dx,dy\n" + "0.5,-0.5\n" * 8)
    argv = ["--checkpoint", tmp_path / "run", "--prompts", "push it", "--vectors", f"action={actions}"]
    argv += ["--output_dir", tmp_path / "out", "--num_inference_steps", 2, "--mixed_precision", "no"]
    generate_text2video.main(generate_text2video.parse_args([str(word) for word in argv]))
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 1


def test_the_check_names_the_cameras_and_counts_the_episodes(folder, tmp_path, capsys):
    check = ["--check", str(folder), "--num_frames", "8", "--frame_size", "16"]
    video_dataset.main(video_dataset.parse_args([*check, "--cameras", "front", "--vectors", "action", "state"]))
    assert "3" in capsys.readouterr().out
    assert json.loads((folder / "dataset_report.json").read_text())["ok"] == 3
    with pytest.raises(ValueError, match=f"{CAMERAS[0]}, {CAMERAS[1]}; --cameras says which"):
        video_dataset.main(video_dataset.parse_args(check))
