"""Scores of tasks: true clips score as right, others as wrong, and the script writes what it measured."""

import argparse
import json

import numpy as np
import pytest

import evaluate_text2video
from models.conditions import ConditionSettings
from models.diffusion.captioned import CaptionedDiffusion
from utils.cli import UserError
from utils.demo_data import shapes
from utils.task_scores.evaluate import TaskScores
from utils.task_scores.measure import distance, follows, path_of, seam
from utils.task_scores.tasks import TASKS, around_the_path, every_third, other_colour, other_object
from utils.task_scores.truth import Truth, make_truths
from utils.video.frames import to_uint8
from video_dataset import TextVideoDataset

DEMO = {"num_frames": 16, "frame_size": 64, "fps": 8, "hard": False}
READING = {"num_frames": 8, "frame_size": (32, 32), "target_fps": 4.0}


@pytest.fixture(scope="module")
def truths(tmp_path_factory) -> list[Truth]:
    prompts = shapes.benchmark_prompts(8)
    return make_truths(
        prompts, tmp_path_factory.mktemp("truths"), DEMO, TextVideoDataset, READING, ["depth", "vectors", "audio"]
    )


def test_true_clips_show_what_their_prompts_say_where_they_say(truths):
    for truth in truths:
        frames = to_uint8(truth.video)
        assert frames.shape == (8, 32, 32, 3) and truth.path.shape == (8, 2)
        assert distance(frames, truth.path) < 0.01
        motion = truth.conditions["vectors"].numpy()
        assert np.abs(motion[:, :2] - truth.path).max() < 0.01
        assert truth.conditions["depth"].shape == (1, 8, 32, 32) and truth.conditions["audio"].shape == (8, 32)


@pytest.mark.parametrize("name", TASKS)
def test_the_truth_itself_is_right_in_everything_and_another_clip_is_not(truths, name):
    task = TASKS[name]
    right, wrong = [], []
    for truth, other in zip(truths, truths[1:] + truths[:1], strict=True):
        asked = truth.attributes
        right.append(task.measure(to_uint8(truth.video), truth, asked))
        wrong.append(task.measure(to_uint8(other.video), truth, asked))
    for measure, value in right[0].items():
        if isinstance(value, bool) and name != "recolour":
            assert np.mean([each[measure] for each in right]) >= 0.85, measure
            assert np.mean([each[measure] for each in wrong]) <= 0.6, measure


def test_prompts_of_edits_ask_for_one_thing_more(truths):
    for truth in truths:
        colour, shape = truth.attributes["colour"], truth.attributes["shape"]
        assert colour not in other_colour(truth) and shape in other_colour(truth)
        assert colour not in other_object(truth) and shape not in other_object(truth)


def test_the_hole_of_inpainting_holds_the_object_and_not_all(truths):
    for truth in truths:
        hole = around_the_path(truth)[0].numpy() == 0
        bright = to_uint8(truth.video).max(axis=-1) > 100
        assert not (bright & ~hole).any() and 0.05 < hole.mean() < 0.9
        assert (hole == hole[0]).all()


def test_distances_and_seams_are_what_they_say(truths):
    frames = to_uint8(truths[0].video)
    moved = np.roll(frames, 4, axis=2)
    assert np.abs(path_of(moved) - truths[0].path - (4 / 32, 0)).max() < 0.02
    assert not follows(moved, truths[0].path) and follows(moved, truths[0].path, axes=(1,))
    assert distance(np.zeros_like(frames), truths[0].path) == float("inf")
    found = seam(frames, frames, 4)
    assert found["seam"] == found["seam_of_data"] > 0
    assert seam(255 - frames, frames, 4)["seam"] > 50
    assert every_third(8) == [0, 3, 6, 7]


def test_the_script_writes_scores_and_pictures_and_adds_to_them(known_run, data, tmp_path, capsys):
    def evaluate(*tasks):
        flags = ["--checkpoint", known_run, "--data_dir", data, "--output_dir", tmp_path, "--num_prompts", 2]
        flags += ["--num_inference_steps", 2, "--mixed_precision", "no", "--task", *tasks]
        evaluate_text2video.main(evaluate_text2video.parse_args([*map(str, flags)]))
        return json.loads((tmp_path / "tasks.json").read_text())["tasks"]

    assert evaluate("first_frame").keys() == {"first_frame"}
    tasks = evaluate("inpainting", "audio", "recolour")
    assert tasks.keys() == {"first_frame", "inpainting", "audio", "recolour"}
    assert tasks["first_frame"].keys() == {"conditioned", "replacement", "text alone"}
    assert tasks["audio"].keys() == {"conditioned", "swapped", "text alone"}
    assert tasks["recolour"].keys() == {"inversion", "inversion and depth", "sdedit"}
    first = tasks["first_frame"]["conditioned"]
    assert first.keys() == {"seen", "held out"} and first["seen"]["kept"]["value"] == 1.0
    assert tasks["inpainting"]["text alone"]["seen"]["outside_equal"]["value"] == 1.0
    assert all((tmp_path / f"{task}.png").is_file() for task in tasks)
    assert "first_frame, conditioned, held out: kept 100%" in capsys.readouterr().out


def test_tasks_are_drawn_with_all_that_the_model_draws_with(known_run, data, tmp_path, monkeypatch):
    drawn, sample = [], CaptionedDiffusion.sample

    def noted(self, prompts, seeds, *negative_prompt, **how):
        drawn.append(how)
        return sample(self, prompts, seeds, *negative_prompt, **how)

    monkeypatch.setattr(CaptionedDiffusion, "sample", noted)
    how = {"guidance_scale": 3.0, "guidance_interval": (0.5, 1.0), "guidance_rescale": 0.4, "guidance_parallel": 0.2}
    how |= {"sampler": "euler", "num_inference_steps": 2, "thresholding": "none"}
    flags = ["--checkpoint", known_run, "--data_dir", data, "--output_dir", tmp_path, "--num_prompts", 1]
    flags += ["--mixed_precision", "no", "--task", "first_frame"]
    for name, value in how.items():
        flags += [f"--{name}", *(value if isinstance(value, tuple) else [value])]
    evaluate_text2video.main(evaluate_text2video.parse_args([*map(str, flags)]))
    assert len(drawn) == 6 and all({name: each[name] for name in how} == how for each in drawn)


def test_a_swapped_condition_is_followed_where_the_other_clip_is(truths, monkeypatch):
    scores = TaskScores.__new__(TaskScores)
    scores.truths = {"seen": truths}
    scores.generator = argparse.Namespace(conditions=ConditionSettings(maps={"depth": 1}))
    others = [to_uint8(truth.video) for truth in truths[1:] + truths[:1]]
    monkeypatch.setattr(scores, "_drawn", lambda task, way, group: others)
    found, _ = scores.evaluate("depth")
    assert found["swapped"]["seen"]["followed"].value == 1.0
    assert found["conditioned"]["seen"]["followed"].value < 0.5


def test_a_model_that_does_not_know_what_a_task_needs_is_refused(plain_run, data, tmp_path):
    flags = [
        "--checkpoint",
        plain_run,
        "--output_dir",
        tmp_path,
        "--data_dir",
        data,
        "--num_prompts",
        1,
        "--task",
        "depth",
    ]
    with pytest.raises(UserError, match="--task depth: needs depth; conditions that this model knows: none"):
        evaluate_text2video.main(evaluate_text2video.parse_args([*map(str, flags)]))
