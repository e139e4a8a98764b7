"""Students beside their teachers: what the benchmark of real time compares."""

import json

import numpy as np
import pytest

import train_text2video
from benchmarks import measure
from benchmarks.realtime import students
from benchmarks.text2video import time_to_prompt
from utils.demo_data import shapes
from utils.demo_data.demo_dataset import write_demo_dataset

pytestmark = pytest.mark.benchmarks


def test_videos_are_as_far_apart_as_their_paths_sizes_and_colours():
    thing = shapes.combinations()[0] | {"rgb": [255, 0, 0], "radius": 8.0, "path": [[16 + 2 * t, 20] for t in range(6)]}
    moved = thing | {"path": [[x + 9, y + 12] for x, y in thing["path"]]}
    larger = thing | {"radius": 10.0, "rgb": [0, 0, 255]}
    here, there, large = (students.vector(shapes.draw([each], 6, 64)) for each in (thing, moved, larger))
    assert students.apart([here["paths"], there["paths"]]) == pytest.approx(15 / 64, abs=0.005)
    assert students.apart([here["sizes"], there["sizes"]]) == pytest.approx(0, abs=0.005)
    assert students.apart([here["sizes"], large["sizes"]]) == pytest.approx(2 / 64, abs=0.005)
    assert students.apart([here["colours"], large["colours"]]) == pytest.approx(255 * 2**0.5, rel=0.1)
    three = [np.zeros(2), np.zeros(2), np.array([3.0, 4.0])]
    assert students.apart(three) == pytest.approx(10 / 3)  # of three pairs two are 5 apart
    nothing = students.vector(np.zeros((6, 64, 64, 3), np.uint8))
    assert np.isnan(nothing["paths"]).all() and nothing["paths"].shape == (6, 2)


def test_students_stand_beside_their_teacher_and_nothing_is_run_twice(tmp_path, monkeypatch, capsys):
    write_demo_dataset(tmp_path / "data", num_clips=12, num_frames=4, frame_size=16)
    flags = ["--data_dir", tmp_path / "data", "--output_dir", tmp_path / "teacher", "--preset", "tiny", "--no_wandb"]
    train_text2video.main(train_text2video.parse_args([*map(str, flags), "--max_train_steps", "1"]))
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(students, "PROMPTS", 2)
    argv = ["--teachers", str(tmp_path / "teacher"), "--work_dir", str(tmp_path / "work"), "--steps", "2"]
    argv += ["--max_train_steps", "1", "--num_prompts", "2", "--num_samples", "2"]
    students.main(students.parse_args(argv))
    stored = json.loads((tmp_path / "students.json").read_text())
    assert [row["model"] for row in stored["rows"]] == ["teacher", "teacher in 2", "consistency in 2"]
    assert all("diversity of paths" in row and "all, seen" in row for row in stored["rows"])
    assert stored["rows"][2]["seconds"] > 0
    sidecars = (tmp_path / "work" / "teacher" / "consistency2" / "evaluation").rglob("*.json")
    drawn = [found for path in sidecars if "sampler" in (found := json.loads(path.read_text()))]
    assert drawn and {(each["sampler"], each["num_inference_steps"]) for each in drawn} == {("ddim", 2)}
    monkeypatch.setattr(time_to_prompt, "run_script", None)
    students.main(students.parse_args(argv))
    assert json.loads((tmp_path / "students.json").read_text())["rows"] == stored["rows"]
