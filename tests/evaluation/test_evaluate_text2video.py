"""evaluate_text2video.py as a user runs it: on a model, on other people's videos, on any data, and on several runs."""

import json
import re
import shutil
from pathlib import Path

import pytest

import evaluate_text2video
import train_text2video
from utils.cli import UserError
from utils.demo_data.demo_dataset import write_demo_dataset
from utils.evaluation.benchmark import GROUPS, benchmark
from utils.logs.metrics import read_metrics

CORE = ("colour", "shape", "direction")


def evaluate(*flags) -> None:
    evaluate_text2video.main(evaluate_text2video.parse_args([*map(str, flags), "--mixed_precision", "no"]))


def train(data: Path, run_dir: Path, *flags) -> Path:
    argv = ["--data_dir", data, "--output_dir", run_dir, "--preset", "tiny", "--no_wandb", "--max_train_steps", 2]
    train_text2video.main(train_text2video.parse_args([str(each) for each in (*argv, *flags)]))
    return run_dir


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation") / "data"
    write_demo_dataset(folder, num_clips=24, num_frames=8, frame_size=32)
    return folder


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Path:
    """Clips of the same kind as `data`, none of them in it: what a perfect model would draw."""
    folder = tmp_path_factory.mktemp("evaluation") / "fresh"
    write_demo_dataset(folder, num_clips=24, num_frames=8, frame_size=32, seed=7)
    return folder


@pytest.fixture(scope="module")
def run_dir(data, tmp_path_factory) -> Path:
    return train(data, tmp_path_factory.mktemp("evaluation") / "run")


def judged(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))


def test_right_videos_score_full_marks_and_are_no_copies(data, fresh, tmp_path, capsys):
    evaluate("--videos", fresh, "--data_dir", data, "--output_dir", tmp_path)
    found = judged(tmp_path)
    scores = found["groups"]["videos"]
    assert all(scores[name]["share"] == 1 for name in (*CORE, "all", "strict"))
    assert all(found["faithful"][name]["share"]["value"] > 0.9 for name in ("misfit", "flicker"))
    assert all(abs(found["like"][name]["ratio"] - 1) < 0.25 for name in ("travel", "near", "contrast"))  # other places
    assert found["like"]["contrast"]["like"] and found["like"]["flicker"]["like"]
    assert found["copies"]["suspected"]["value"] == 0
    assert "100.0%" in capsys.readouterr().out


def test_videos_with_each_others_prompts_score_what_chance_gives(data, fresh, tmp_path):
    shutil.copytree(fresh, tmp_path / "mixed")
    texts = sorted((tmp_path / "mixed" / "captions").glob("*.txt"))
    captions = [text.read_text(encoding="utf-8") for text in texts]
    for text, caption in zip(texts, captions[1:] + captions[:1], strict=True):
        text.write_text(caption, encoding="utf-8")
    evaluate("--videos", tmp_path / "mixed", "--data_dir", data, "--output_dir", tmp_path / "out")
    scores = judged(tmp_path / "out")["groups"]["videos"]
    for name in CORE:
        low, high = scores[name]["interval"]
        assert low <= scores[name]["chance"] <= high
    assert scores["all"]["share"] < 0.2


def test_copies_of_training_clips_are_found(data, tmp_path):
    evaluate("--videos", data, "--data_dir", data, "--output_dir", tmp_path)
    found = judged(tmp_path)
    assert found["copies"]["suspected"]["value"] > 0.9  # the validation clips are not training clips
    training = {Path(row["nearest"]["clip"]).name for row in found["samples"]}
    assert sum(Path(row["video"]).name in training for row in found["samples"]) >= 23


def test_fresh_clips_lie_nearer_to_the_data_than_still_ones(data, fresh, tmp_path):
    import numpy as np

    from utils.decoding.probe import probe_video
    from utils.decoding.read import read_frames
    from utils.video.encode import write_video

    shutil.copytree(fresh, tmp_path / "still")
    for video in (tmp_path / "still" / "videos").glob("*.mp4"):
        write_video(video, np.repeat(read_frames(probe_video(video), [0]), 8, axis=0), 8)
    for name, folder in (("fresh", fresh), ("still", tmp_path / "still")):
        evaluate("--videos", folder, "--data_dir", data, "--output_dir", tmp_path / name)
    moving, still = judged(tmp_path / "fresh"), judged(tmp_path / "still")
    assert still["groups"]["videos"]["direction"]["share"] == 0
    # Of a small object before a still camera most flow is still, in the data too: there the intervals are wide.
    for feature, bound in (("random3d", "high"), ("flow", "value")):
        assert moving["distances"][feature]["kernel"][bound] < still["distances"][feature]["kernel"]["low"]
    assert not moving["motion"]["mean_motion"]["differ"] and still["motion"]["mean_motion"]["differ"]


def test_a_model_is_judged_on_the_benchmarks_prompts_and_the_page_shows_them(data, run_dir, capsys):
    flags = ("--checkpoint", run_dir, "--data_dir", data, "--num_prompts", 3, "--num_inference_steps", 2)
    evaluate(*flags)
    found, folder = judged(run_dir / "evaluation"), run_dir / "evaluation"
    prompts = benchmark(3, hard=False)
    assert {group: [r["prompt"] for r in found["samples"] if r["group"] == group] for group in GROUPS} == prompts
    assert all(found["groups"][group]["all"]["of"] == 3 for group in GROUPS)
    assert set(found["confusion"]) == {*CORE, "speed", "size"}
    page = (folder / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r'<video src="([^"]+)"', page)
    assert sum(source.startswith("videos/") for source in sources) >= 6
    assert all((folder / source).is_file() for source in sources)

    videos = {path: path.stat().st_mtime_ns for path in (folder / "videos").glob("*.mp4")}
    capsys.readouterr()
    evaluate(*flags)  # again: nothing is drawn
    assert videos == {path: path.stat().st_mtime_ns for path in (folder / "videos").glob("*.mp4")}
    assert "6 of 6 videos are there already" in capsys.readouterr().out


def test_the_page_shows_the_worst_videos_first(data, fresh, tmp_path):
    shutil.copytree(fresh, tmp_path / "one_wrong")
    wrong = sorted((tmp_path / "one_wrong" / "captions").glob("*.txt"))[11]
    swaps = {"red": "green", "green": "blue", "blue": "yellow", "yellow": "red"}
    text = wrong.read_text(encoding="utf-8")
    colour = next(word for word in text.split() if word in swaps)
    wrong.write_text(text.replace(colour, swaps[colour]), encoding="utf-8")
    evaluate("--videos", tmp_path / "one_wrong", "--data_dir", data, "--output_dir", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    figures = re.findall(r'<figure( class="bad")?><video src="([^"]+)"', page)[:24]
    assert [bool(bad) for bad, _ in figures] == [True] + 23 * [False]
    assert Path(figures[0][1]).stem == wrong.stem and f"colour: {colour}" in page


def test_on_other_data_captions_of_validation_clips_are_drawn_and_nothing_is_judged(data, tmp_path):
    shutil.copytree(data, tmp_path / "own")
    (tmp_path / "own" / "dataset.json").unlink()
    run_dir = train(tmp_path / "own", tmp_path / "run")
    evaluate("--checkpoint", run_dir, "--data_dir", tmp_path / "own", "--num_inference_steps", 1, "--num_prompts", 5)
    found = judged(run_dir / "evaluation")
    captions = {path.read_text(encoding="utf-8").strip() for path in (data / "captions").glob("*.txt")}
    assert "groups" not in found and {row["prompt"] for row in found["samples"]} <= captions
    assert found["reading"]["num_frames"] == 4 and found["num_real"] == 23


@pytest.mark.slow
def test_runs_whose_intervals_overlap_are_not_ranked(data, fresh, tmp_path, capsys):
    for name, folder in (("a", fresh), ("b", fresh)):
        evaluate("--videos", folder, "--data_dir", data, "--output_dir", tmp_path / name)
    capsys.readouterr()
    evaluate("--compare", tmp_path / "a" / "evaluation.json", tmp_path / "b" / "evaluation.json")
    said = capsys.readouterr().out
    assert said.count("1. ") == 2 * said.count(":\n") and "tie with" in said

    evaluate("--videos", fresh, "--data_dir", data, "--output_dir", tmp_path / "c", "--num_real", "10")
    with pytest.raises(UserError, match="--num_real"):
        evaluate("--compare", tmp_path / "a" / "evaluation.json", tmp_path / "c" / "evaluation.json")


@pytest.mark.parametrize(
    "flags, said",
    [
        ([], "--checkpoint: give one of"),
        (["--checkpoint", "nowhere"], "--checkpoint: there is no nowhere"),
        (["--videos", "nowhere"], "--videos: there is no folder nowhere"),
        (["--videos", ".", "--data_dir", "nowhere"], "--data_dir: there is no folder nowhere"),
        (["--compare", "nowhere.json"], "--compare: there is no file nowhere.json"),
        (["--videos", ".", "--features", "clip"], "--features: clip needs --clip_dir"),
        (["--videos", ".", "--features", "inception"], "--features: got inception, must be one of"),
        (["--videos", ".", "--fvd_weights", "i3d.pt"], "--fvd_weights: there is no i3d.pt"),
    ],
)
def test_bad_flags_are_named_with_status_2(flags, said, data, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate_text2video.parse_args(["--data_dir", str(data), *flags])
    assert stop.value.code == 2 and said in capsys.readouterr().err


def test_bad_files_are_named(data, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no video"):
        evaluate("--videos", tmp_path / "empty", "--data_dir", data)
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"1 videos have no prompt, a\.mp4"):
        evaluate("--videos", tmp_path, "--data_dir", data)
    (tmp_path / "a.txt").write_text("a red circle moving right")
    with pytest.raises(UserError, match=r"a\.mp4 cannot be read"):
        evaluate("--videos", tmp_path, "--data_dir", data)
    (tmp_path / "evaluation.json").write_text("[]")
    with pytest.raises(UserError, match="is not an evaluation.json"):
        evaluate("--compare", tmp_path / "evaluation.json")


def test_training_logs_and_plots_how_many_prompts_are_obeyed(data, tmp_path):
    train(data, tmp_path / "run", "--evaluate_every", 1, "--evaluate_prompts", 2)
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "accuracy/seen_all" in row]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(f"accuracy/{group}_{name}" in rows[0] for group in ("seen", "held_out") for name in (*CORE, "strict"))


def test_training_on_other_data_refuses_to_judge(data, tmp_path, capsys):
    shutil.copytree(data, tmp_path / "own")
    (tmp_path / "own" / "dataset.json").unlink()
    with pytest.raises(SystemExit):
        train_text2video.parse_args(["--data_dir", str(tmp_path / "own"), "--evaluate_every", "10"])
    assert "--evaluate_every: judges the demo dataset alone" in capsys.readouterr().err
