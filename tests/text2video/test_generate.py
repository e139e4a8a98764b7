"""Generating, end to end through the script's main, with a model of the tiny preset."""

import hashlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import generate_text2video
from tests.text2video.running import generate
from utils.cli import UserError
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames


def test_one_prompt_makes_every_kind_of_file(run_dir, tmp_path):
    out = tmp_path / "out"
    generate(
        "--checkpoint",
        run_dir / "best_model.pth",
        "--prompts",
        "a red circle moving right",
        "--output_dir",
        out,
        "--save_gif",
        "--save_frames",
        "--visualize",
        "--num_inference_steps",
        3,
        "--seed",
        5,
    )
    (video,) = out.glob("*.mp4")
    assert re.fullmatch(r"0000_5_a-red-circle-moving-right_[0-9a-f]{8}", video.stem)
    info = probe_video(video)
    assert (info.frames, info.width, info.height, info.fps) == (4, 16, 16, 8)
    assert len(list((out / f"{video.stem}_frames").glob("*.png"))) == 4
    assert probe_video(out / f"{video.stem}.gif").frames == 4
    assert (out / f"{video.stem}.png").exists() and (out / "contact_sheet.png").exists()
    sidecar = json.loads((out / f"{video.stem}.json").read_text())
    assert sidecar["prompt"] == "a red circle moving right" and sidecar["seed"] == 5
    assert len(sidecar["checkpoint_sha256"]) == 64 and sidecar["versions"]["torch"] == torch.__version__
    page = (out / "index.html").read_text()
    assert video.name in page and "a red circle moving right" in page
    assert not [path for path in out.rglob(".*")]


def test_the_same_command_makes_the_same_videos_and_skips_what_is_there(run_dir, tmp_path, capsys):
    flags = [
        "--checkpoint",
        run_dir,
        "--prompts",
        "a red circle",
        "a red circle",
        "a blue square",
        "--num_inference_steps",
        2,
    ]
    generate(*flags, "--output_dir", tmp_path / "a")
    generate(*flags, "--output_dir", tmp_path / "b", "--batch_size", 1)
    first, second = (sorted((tmp_path / name).glob("*.mp4")) for name in "ab")
    assert len(first) == 3 and [path.name for path in first] == [path.name for path in second]
    for a, b in zip(first, second, strict=True):
        frames = [read_frames(probe_video(path), range(4)).astype(int) for path in (a, b)]
        assert np.abs(frames[0] - frames[1]).mean() < 0.5  # rounding, of batches and in H.264
    times = [path.stat().st_mtime_ns for path in first]
    generate(*flags, "--output_dir", tmp_path / "a")
    assert [path.stat().st_mtime_ns for path in first] == times
    assert "3 of 3 videos are there already" in capsys.readouterr().out
    generate(*flags, "--output_dir", tmp_path / "a", "--overwrite")
    assert [path.stat().st_mtime_ns for path in first] != times


def test_settings_of_the_command_line_override_those_of_the_training(run_dir, tmp_path):
    generate(
        "--checkpoint",
        run_dir,
        "--prompts",
        "a red circle",
        "--output_dir",
        tmp_path,
        "--num_frames",
        6,
        "--height",
        24,
        "--width",
        32,
        "--fps",
        12,
        "--sampler",
        "ddim",
        "--num_inference_steps",
        2,
    )
    info = probe_video(next(tmp_path.glob("*.mp4")))
    assert (info.frames, info.height, info.width, info.fps) == (6, 24, 32, 12)


def test_ddpm_takes_the_guides_1000_steps_by_default(run_dir):
    args = generate_text2video.parse_args(["--checkpoint", str(run_dir), "--prompts", "x", "--sampler", "ddpm"])
    assert generate_text2video.Generator(args, run_dir, "cpu").num_inference_steps == 1000
    args = generate_text2video.parse_args(["--checkpoint", str(run_dir), "--prompts", "x"])
    assert generate_text2video.Generator(args, run_dir, "cpu").num_inference_steps == 25


@pytest.mark.parametrize(
    "prompt",
    [
        "../../escape",
        "/absolute",
        "C:\\x",
        "a" * 300,
        "红" * 90,
        'sl/ash: "quote" %02d\nnewline',
        "..",
        "CON",
        "🎥",
        "\x1b[2J",
    ],
)
def test_no_prompt_writes_outside_the_output_folder(run_dir, tmp_path, prompt):
    out = tmp_path / "out"
    generate("--checkpoint", run_dir, "--prompts", prompt, "--output_dir", out, "--num_inference_steps", 1)
    (video,) = out.glob("*.mp4")
    assert len(video.name.encode()) < 120 and {path.name for path in tmp_path.iterdir()} == {"out"}
    assert json.loads(video.with_suffix(".json").read_text())["prompt"] == prompt.strip()


def test_prompt_files_become_sections_of_the_page(run_dir, tmp_path):
    for name, text in (
        ("seen_prompts", "a red circle\n\n a blue square \n"),
        ("heldout_prompts", "\ufeffa <b>green</b> one"),
    ):
        (tmp_path / f"{name}.txt").write_text(text)
    files = [tmp_path / "seen_prompts.txt", tmp_path / "heldout_prompts.txt"]
    generate(
        "--checkpoint", run_dir, "--prompts_file", *files, "--output_dir", tmp_path / "out", "--num_inference_steps", 1
    )
    page = (tmp_path / "out" / "index.html").read_text()
    assert "seen prompts (2)" in page and "heldout prompts (1)" in page and "&lt;b&gt;green" in page
    assert page.count("<video ") == 3


def test_unknown_and_cut_words_are_named(run_dir, tmp_path, capsys):
    generate(
        "--checkpoint",
        run_dir,
        "--prompts",
        "a red elephant",
        "circle " * 90,
        "--output_dir",
        tmp_path,
        "--num_inference_steps",
        1,
    )
    errors = capsys.readouterr().err
    assert "no training caption had the word(s) elephant" in errors
    assert "longer than 77 tokens; used: circle circle" in errors and "; cut off: circle circle" in errors


def interact(monkeypatch, lines: str, *flags):
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    generate(*flags)


def test_interactive_mode_asks_until_quit(run_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("checkpoints").mkdir()
    Path("checkpoints/text2video_test").symlink_to(run_dir)
    lines = "\nnot/there.pth\n7\n1\n\n\x1b[2J\na red circle\na blue \x07square\nquit\nnever read\n"
    interact(monkeypatch, lines, "--output_dir", "out", "--num_inference_steps", 1)
    output = capsys.readouterr().out
    assert "1  checkpoints/text2video_test/best_model.pth" in output and "there is no file not/there.pth" in output
    prompts = [json.loads(path.read_text())["prompt"] for path in sorted(Path("out").glob("*.json"))]
    assert prompts == ["[2J", "a red circle", "a blue square"]


@pytest.mark.parametrize("lines", ["", "1\n", "quit\n", "1\nexit\n"])
def test_end_of_input_leaves_with_zero(run_dir, tmp_path, monkeypatch, lines):
    monkeypatch.chdir(tmp_path)
    Path("checkpoints").mkdir()
    Path("checkpoints/text2video_test").symlink_to(run_dir)
    interact(monkeypatch, lines, "--output_dir", "out")
    assert not list(Path().glob("out/*.mp4"))


def test_weights_that_do_not_fit_their_description_are_refused(run_dir, tmp_path):
    model = torch.load(run_dir / "best_model.pth", weights_only=True)
    model["unet_config"]["model_channels"] = 32
    torch.save(model, tmp_path / "model.pth")
    with pytest.raises(UserError, match="weights do not fit its own description"):
        generate("--checkpoint", tmp_path / "model.pth", "--prompts", "x", "--output_dir", tmp_path / "out")


def test_guidance_acts_where_it_did_in_training_unless_told_otherwise(run_dir, tmp_path):
    model = torch.load(run_dir / "best_model.pth", weights_only=True)
    videos = {}
    for name, stored, flags in (
        ("everywhere", {}, []),
        ("told", {}, ["--guidance_interval", 0.5, 1]),
        ("trained", {"guidance_interval": [0.5, 1.0]}, []),
        ("told otherwise", {"guidance_interval": [0.5, 1.0]}, ["--guidance_interval", 0, 1]),
    ):
        file = tmp_path / f"{name}.pth"
        torch.save({key: value for key, value in model.items() if key != "guidance_interval"} | stored, file)
        how = ["--prompts", "a red circle", "--num_inference_steps", 4, "--guidance_scale", 5, "--save_frames"]
        generate("--checkpoint", file, *how, *flags, "--output_dir", tmp_path / name)
        videos[name] = [path.read_bytes() for path in sorted((tmp_path / name).rglob("*.png"))]
    assert videos["told"] == videos["trained"] != videos["everywhere"] == videos["told otherwise"]


def test_a_weaker_run_guides_and_is_noted_with_the_video(run_dir, tmp_path):
    model = torch.load(run_dir / "best_model.pth", weights_only=True)
    weak = tmp_path / "weak.pth"
    noise = torch.Generator().manual_seed(0)
    shaken = {name: w + 0.1 * torch.randn(w.shape, generator=noise) for name, w in model["unet"].items()}
    torch.save(model | {"unet": shaken}, weak)
    frames, noted = {}, {}
    for name, flags in (("text", []), ("weaker", ["--autoguidance", weak])):
        how = ["--prompts", "a red circle", "--num_inference_steps", 2, "--guidance_scale", 3, "--save_frames"]
        generate("--checkpoint", run_dir, *how, *flags, "--output_dir", tmp_path / name)
        frames[name] = [path.read_bytes() for path in sorted((tmp_path / name).rglob("*.png"))]
        noted[name] = json.loads(next((tmp_path / name).glob("*.json")).read_text())
    assert frames["text"] != frames["weaker"]
    assert noted["weaker"]["autoguidance_sha256"] == hashlib.sha256(weak.read_bytes()).hexdigest()
    assert "autoguidance_sha256" not in noted["text"]


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"prediction_type": "v_prediction"}, "other noise, or to predict something else"),
        ({"noise_shift": 7.0}, "other noise, or to predict something else"),
        (None, "--autoguidance: there is no file"),
    ],
)
def test_a_weaker_run_that_cannot_be_compared_is_refused(run_dir, tmp_path, changed, said):
    if changed is not None:
        model = torch.load(run_dir / "best_model.pth", weights_only=True)
        torch.save(model | {"diffusion": model["diffusion"] | changed}, tmp_path / "weak.pth")
    flags = ["--prompts", "x", "--output_dir", tmp_path / "out", "--autoguidance", tmp_path / "weak.pth"]
    with pytest.raises(UserError, match=said):
        generate("--checkpoint", run_dir, *flags)
