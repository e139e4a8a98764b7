"""What the benchmarks of motion as in the data measure."""

import json

import numpy as np
import pytest

from benchmarks import measure
from benchmarks.faithful import guidance, pixel_error
from tests.text2video.running import train
from utils.demo_data.demo_dataset import write_demo_dataset

pytestmark = pytest.mark.benchmarks


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faithful")
    write_demo_dataset(folder / "data", num_clips=48, num_frames=8, frame_size=32)
    train(folder / "data", folder / "run", "--max_train_steps", "2", "--val_fraction", "0.5")
    return folder


def test_near_is_what_stands_out_and_four_pixels_around():
    clip = np.full((3, 2, 32, 32), -0.9, np.float32)
    clip[:, 1, 10:12, 10:12] = 0.9
    near = pixel_error.near_objects(clip)
    assert not near[0].any() and near[1, 6:16, 6:16].all() and near[1].sum() == 100


def test_the_error_grows_with_the_noise(demo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    pixel_error.main(
        pixel_error.parse_args(["--runs", str(demo / "run"), "--data_dir", str(demo / "data"), "--num_clips", "4"])
    )
    (rows,) = json.loads((tmp_path / "pixel_error.json").read_text())["runs"].values()
    noise = [row["sigma_over_alpha"] for row in rows]
    assert noise == sorted(noise) and all(row["near"] > 0 and row["far"] > 0 for row in rows)


def test_each_guidance_is_a_line_of_ratios(demo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    where = ["--runs", str(demo / "run"), "--work_dir", str(tmp_path / "work")]  # on the data it learnt from
    flags = [*where, "--num_prompts", "12", "--steps", "2", "--guidance_scales", "1", "2", "--parallels", "1", "0"]
    flags += ["--weaker", str(demo / "run"), "--lows", "0.6"]
    guidance.main(guidance.parse_args(flags))
    rows = json.loads((tmp_path / "guidance.json").read_text())["rows"]
    ways = [(row["guidance_scale"], row["parallel"], row["autoguidance"]) for row in rows]
    assert ways == [(1, 1, False), (2, 1, False), (2, 1, True), (2, 0, False), (2, 0, True)]
    noted = (tmp_path / "work").glob("*_weaker/videos/*.json")
    assert all("autoguidance_sha256" in path.read_text() for path in noted)
    assert {"all, seen", "strict, held out", "random3d distance", "flow distance"} <= rows[0].keys()


def test_of_runs_that_differ_by_their_seeds_there_are_means_with_the_lowest_and_highest():
    how = {"sampler": "ddim", "steps": 4, "guidance_scale": 1.0, "rescale": 0.0, "parallel": 1.0, "autoguidance": False}
    rows = [
        {"run": run, **how, "low": low, "travel": travel, "misfit": None}
        for run, low, travel in (("a", 0.0, 1.0), ("b", 0.0, 1.5), ("a", 0.6, 2.0), ("b", 0.6, 4.0))
    ]
    found = guidance.means(rows)
    assert found[0] == {"runs": 2, **how, "low": 0.0, "travel": [1.25, 1.0, 1.5]}
    assert found[1]["travel"] == [3.0, 2.0, 4.0] and "misfit" not in found[1]
    assert guidance.line(found[0]).endswith("travel 1.25 (1 to 1.5)")
